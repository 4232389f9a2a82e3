-- How an account's gateway treats flows, beside its rules: the settings as the API answers them, and what edges need of
-- them. An account that has set nothing has no row.
CREATE TABLE gateway_settings (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    settings TEXT NOT NULL,
    edge_settings TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- What signs the certificates that an account's devices are shown where their TLS is opened.
CREATE TABLE inspection_authorities (
    account_id TEXT PRIMARY KEY REFERENCES accounts (id),
    certificate TEXT NOT NULL,
    key_sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
