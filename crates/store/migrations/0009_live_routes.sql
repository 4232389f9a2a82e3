-- The live routes in the order of lists: counted, and their first page found, without reading the rows that are not shown.
-- deleted_at is in it so that counting reads nothing else.
CREATE INDEX routes_live ON routes (account_id, created_at, id, deleted_at) WHERE deleted_at IS NULL;
