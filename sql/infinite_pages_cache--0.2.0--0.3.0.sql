-- From 0.2.0 to 0.3.0. The tables, which are no members of the extension, cache_setup() brings to the shape of this
-- version, also after the restore of an old dump.

SELECT @extschema@.cache_setup();
