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

-- Written by the nodes: the public key with which one signs where it opens TLS, endorsed by the key by which it is known.
CREATE TABLE node_inspection_keys (
    node_id TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    endorsement TEXT NOT NULL
);

-- What accounts' authorities have signed for nodes' keys: certificates, and no keys. Each node reads its own.
CREATE TABLE node_authorities (
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    account_id TEXT NOT NULL,
    certificate_id TEXT NOT NULL,
    endorsement TEXT NOT NULL,
    chain TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (node_id, account_id, certificate_id)
);

--postgres ALTER TABLE node_inspection_keys ENABLE ROW LEVEL SECURITY;
--postgres CREATE POLICY own_seen ON node_inspection_keys FOR SELECT
--postgres     USING (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres CREATE POLICY own_added ON node_inspection_keys FOR INSERT
--postgres     WITH CHECK (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres CREATE POLICY own_changed ON node_inspection_keys FOR UPDATE
--postgres     USING (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres ALTER TABLE node_authorities ENABLE ROW LEVEL SECURITY;
--postgres CREATE POLICY own_seen ON node_authorities FOR SELECT
--postgres     USING (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres DO $$ DECLARE node RECORD; BEGIN
--postgres     FOR node IN SELECT n.role FROM nodes n JOIN pg_roles r ON r.rolname = n.role LOOP
--postgres         EXECUTE format('GRANT SELECT, INSERT, UPDATE ON node_inspection_keys TO %I', node.role);
--postgres         EXECUTE format('GRANT SELECT ON node_authorities TO %I', node.role);
--postgres     END LOOP;
--postgres END $$;
