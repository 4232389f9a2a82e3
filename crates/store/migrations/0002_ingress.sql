-- What the connectors of a remotely managed tunnel are told. A later configuration takes the place of the one before and
-- has the next number; the audit record says who stored it.
CREATE TABLE tunnel_configurations (
    tunnel_id TEXT PRIMARY KEY REFERENCES tunnels (id),
    version BIGINT NOT NULL,
    config TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Public host names. Among the live ones each name is there once, whichever account has it.
CREATE TABLE hostnames (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    hostname TEXT NOT NULL,
    tunnel_id TEXT NOT NULL REFERENCES tunnels (id),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX hostnames_by_name ON hostnames (hostname) WHERE deleted_at IS NULL;
CREATE INDEX hostnames_by_tunnel ON hostnames (tunnel_id);
CREATE INDEX hostnames_in_order ON hostnames (account_id, created_at, id);
