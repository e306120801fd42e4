"""From what the maps should say to ordered writes, which never drop what both versions allow."""
