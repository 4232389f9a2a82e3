-- item_count is absent until items were given once: a list that never had any answers null, one whose items were taken
-- away answers [].
CREATE TABLE lists (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    description TEXT,
    item_count BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX lists_in_order ON lists (account_id, created_at, id);

-- value is the text as it was given, compared the value by which it is compared.
CREATE TABLE list_items (
    list_id TEXT NOT NULL REFERENCES lists (id),
    compared TEXT NOT NULL,
    place BIGINT NOT NULL,
    value TEXT NOT NULL,
    description TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (list_id, compared)
);
CREATE INDEX list_items_in_order ON list_items (list_id, place);

-- The texts of expressions as they were given, beside them their canonical form. settings, schedule and remarks are JSON.
CREATE TABLE rules (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    filter TEXT NOT NULL,
    action TEXT NOT NULL,
    precedence BIGINT NOT NULL,
    version BIGINT NOT NULL,
    traffic TEXT NOT NULL,
    traffic_canonical TEXT NOT NULL,
    identity TEXT NOT NULL,
    identity_canonical TEXT NOT NULL,
    device_posture TEXT NOT NULL,
    device_posture_canonical TEXT NOT NULL,
    settings TEXT NOT NULL,
    schedule TEXT,
    expires_at BIGINT,
    expires_after_minutes BIGINT,
    remarks TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX rules_by_precedence ON rules (account_id, filter, precedence) WHERE deleted_at IS NULL;
CREATE INDEX rules_in_order ON rules (account_id, precedence, created_at, id);

-- The lists that live rules name: a list that is named cannot go.
CREATE TABLE rule_lists (
    rule_id TEXT NOT NULL REFERENCES rules (id),
    list_id TEXT NOT NULL REFERENCES lists (id),
    PRIMARY KEY (rule_id, list_id)
);
CREATE INDEX rule_lists_by_list ON rule_lists (list_id);
