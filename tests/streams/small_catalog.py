"""The server with a catalogue that is written anew early, packs that are emptied at once, and files read in crumbs."""

from switchgear_streams import checkpoint, pieces, upkeep
from switchgear_streams.__main__ import main

if __name__ == "__main__":
    checkpoint._CATALOG_SLACK = 4096
    pieces.SIZE = 20_000
    upkeep.TIDY_EVERY = 1
    main()
