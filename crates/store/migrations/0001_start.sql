-- Columns are TEXT and BIGINT only, and statements number their parameters, so that SQLite and PostgreSQL read the
-- same text. Times are microseconds since 1970 in UTC, hashes and ids are hexadecimal text, sealed values base64,
-- flags 0 or 1.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE virtual_networks (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    comment TEXT NOT NULL,
    is_default BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX virtual_networks_by_name ON virtual_networks (account_id, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX virtual_networks_default ON virtual_networks (account_id)
    WHERE is_default = 1 AND deleted_at IS NULL;

CREATE TABLE tunnels (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    secret_sealed TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    config_src TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    conns_active_at BIGINT,
    conns_inactive_at BIGINT
);
CREATE UNIQUE INDEX tunnels_by_name ON tunnels (account_id, name) WHERE deleted_at IS NULL;
CREATE INDEX tunnels_in_order ON tunnels (account_id, created_at, id);

-- network_low and network_high: the family's digit, then the first and the last address in hexadecimal, so that
-- "inside" and "around" are comparisons of texts of one length.
CREATE TABLE routes (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    virtual_network_id TEXT NOT NULL REFERENCES virtual_networks (id),
    tunnel_id TEXT NOT NULL REFERENCES tunnels (id),
    network TEXT NOT NULL,
    network_as_written TEXT NOT NULL,
    network_low TEXT NOT NULL,
    network_high TEXT NOT NULL,
    prefix_length BIGINT NOT NULL,
    comment TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX routes_by_network ON routes (virtual_network_id, network) WHERE deleted_at IS NULL;
CREATE INDEX routes_by_tunnel ON routes (tunnel_id);
CREATE INDEX routes_by_low ON routes (account_id, network_low);
CREATE INDEX routes_in_order ON routes (account_id, created_at, id);

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    policies TEXT NOT NULL,
    condition TEXT,
    disabled BIGINT NOT NULL,
    not_before BIGINT,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    revoked_at BIGINT
);

CREATE TABLE service_tokens (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    client_id TEXT NOT NULL UNIQUE,
    secret_hash TEXT NOT NULL,
    secret_version BIGINT NOT NULL,
    previous_secret_hash TEXT,
    previous_expires_at BIGINT,
    duration TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    device_type TEXT NOT NULL,
    os_version TEXT NOT NULL,
    client_version TEXT NOT NULL,
    public_ip TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL
);

-- service_token_id says who enrolled the key, also after that token is gone: no foreign key.
CREATE TABLE registrations (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    device_id TEXT NOT NULL REFERENCES devices (id),
    key_hash TEXT NOT NULL UNIQUE,
    public_key TEXT NOT NULL,
    user_name TEXT NOT NULL,
    service_token_id TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX registrations_by_device ON registrations (device_id);
CREATE INDEX registrations_in_order ON registrations (account_id, created_at, id);

CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    sealed TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE changes (
    number BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    changes TEXT NOT NULL
);

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    account_id TEXT,
    actor TEXT NOT NULL,
    actor_address TEXT,
    action TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id TEXT NOT NULL,
    success BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_in_order ON audit (at, id);
