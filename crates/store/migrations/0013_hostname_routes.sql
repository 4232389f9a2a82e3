-- Names behind tunnels, for an account's devices. Among an account's live ones each name is there once.
CREATE TABLE hostname_routes (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    hostname TEXT NOT NULL,
    tunnel_id TEXT NOT NULL REFERENCES tunnels (id),
    comment TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX hostname_routes_by_name ON hostname_routes (account_id, hostname) WHERE deleted_at IS NULL;
CREATE INDEX hostname_routes_by_tunnel ON hostname_routes (tunnel_id);
CREATE INDEX hostname_routes_in_order ON hostname_routes (account_id, created_at, id);
