"""The server with a catalogue that is written anew early."""

from switchgear_streams import checkpoint
from switchgear_streams.__main__ import main

if __name__ == "__main__":
    checkpoint._CATALOG_SLACK = 4096
    main()
