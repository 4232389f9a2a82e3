-- Edge nodes beside the control plane (design, section 3 and 4). A line that begins with "--postgres" is one of
-- PostgreSQL's, where nodes sign in with roles of their own: what they may do is granted when one is made, and these
-- policies let each write what is its own. Tables' owner, which is the control plane's role, is not concerned.

-- hosts: a JSON list of the names that its certificate is for. role: with which it signs in, null for a node that is a
-- control plane too. key_hash: null until it has enrolled.
CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT UNIQUE,
    hosts TEXT NOT NULL,
    key_hash TEXT,
    created_at BIGINT NOT NULL
);

-- What a node enrols with, once. expires_at: null for the one with which it renews its certificate.
CREATE TABLE node_codes (
    node_id TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    hash TEXT NOT NULL UNIQUE,
    expires_at BIGINT
);

-- Written by the nodes. seen_at: the heartbeat, by this database's clock.
CREATE TABLE node_leases (
    node_id TEXT PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
    address TEXT NOT NULL,
    devices TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);

-- Written by the nodes: which connections they hold, for as long as their leases are young.
CREATE TABLE node_connections (
    id TEXT PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    tunnel_id TEXT NOT NULL,
    opened TEXT NOT NULL
);
CREATE INDEX node_connections_by_node ON node_connections (node_id);

-- Written by the nodes, and taken by a control plane.
CREATE TABLE node_records (
    id TEXT PRIMARY KEY,
    node_id TEXT NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
    at BIGINT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX node_records_in_order ON node_records (at, id);

-- What edges are asked to do once. origin: the node whose own edge has been told already.
CREATE TABLE node_commands (
    number BIGINT PRIMARY KEY,
    origin TEXT NOT NULL,
    command TEXT NOT NULL
);

--postgres ALTER TABLE node_leases ENABLE ROW LEVEL SECURITY;
--postgres CREATE POLICY seen_by_all ON node_leases FOR SELECT USING (true);
--postgres CREATE POLICY own_added ON node_leases FOR INSERT
--postgres     WITH CHECK (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres CREATE POLICY own_changed ON node_leases FOR UPDATE
--postgres     USING (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres ALTER TABLE node_connections ENABLE ROW LEVEL SECURITY;
--postgres CREATE POLICY seen_by_all ON node_connections FOR SELECT USING (true);
--postgres CREATE POLICY own_added ON node_connections FOR INSERT
--postgres     WITH CHECK (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres CREATE POLICY own_removed ON node_connections FOR DELETE
--postgres     USING (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
--postgres ALTER TABLE node_records ENABLE ROW LEVEL SECURITY;
--postgres CREATE POLICY own_added ON node_records FOR INSERT
--postgres     WITH CHECK (node_id = (SELECT n.id FROM nodes n WHERE n.role = current_user));
