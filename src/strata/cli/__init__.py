"""The command line: ``verb thing key=value``. Only this room prints."""
