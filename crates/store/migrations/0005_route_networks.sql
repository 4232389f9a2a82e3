-- The routes with one of a few networks: which of them hold an address, or a network.
CREATE INDEX routes_by_value ON routes (account_id, network);
