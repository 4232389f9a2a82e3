-- Places from which devices without the agent ask for names. networks and max_ttl are JSON texts as the API answers them,
-- endpoints too (null: not set); edge is what edges need. Every account has one that is the default.
CREATE TABLE locations (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    doh_subdomain TEXT NOT NULL,
    client_default BIGINT NOT NULL,
    networks TEXT NOT NULL,
    endpoints TEXT NOT NULL,
    max_ttl TEXT NOT NULL,
    edge TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX locations_by_subdomain ON locations (doh_subdomain);
CREATE UNIQUE INDEX locations_by_name ON locations (account_id, name);
CREATE UNIQUE INDEX locations_default ON locations (account_id) WHERE client_default = 1;
CREATE INDEX locations_in_order ON locations (account_id, created_at, id);

-- Domains whose names devices ask of somebody else than the edge: a JSON text as the API answers it, and what edges need of
-- it. An account that has set none has no row.
CREATE TABLE fallback_domains (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    domains TEXT NOT NULL,
    edge TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
