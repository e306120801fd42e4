"""From what should be in the maps to ordered writes, which never drop what both versions allow."""
