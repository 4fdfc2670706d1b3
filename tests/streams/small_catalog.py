"""The server with a catalogue that is written anew early, and packs that are emptied at once."""

from switchgear_streams import checkpoint, service
from switchgear_streams.__main__ import main

if __name__ == "__main__":
    checkpoint._CATALOG_SLACK = 4096
    service._TIDY_EVERY = 1
    main()
