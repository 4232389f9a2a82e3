-- The authorities of inspection that an account has beside its built-in one. kind: gateway_managed, or custom for one that
-- was uploaded. available: whether its certificates may be shown.
CREATE TABLE inspection_certificates (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    kind TEXT NOT NULL,
    available BIGINT NOT NULL,
    certificate TEXT NOT NULL,
    key_sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX inspection_certificates_by_account ON inspection_certificates (account_id, created_at, id);

-- What blocked requests of an account get, as edges need it; null for the page that is built in.
ALTER TABLE gateway_settings ADD COLUMN block_page TEXT;

-- Authorities by which an account's own origins are trusted. certificate: PEM, one or several. virtual_networks,
-- host_suffixes: JSON lists of what they are limited to.
CREATE TABLE origin_roots (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    certificate TEXT NOT NULL,
    virtual_networks TEXT NOT NULL,
    host_suffixes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (account_id, name)
);
