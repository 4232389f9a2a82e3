-- People who belong to an account. email_key is what addresses are compared by; grants is {"roles": [..]} or
-- {"policies": [..]}, as control checked it.
CREATE TABLE members (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts (id),
    email TEXT NOT NULL,
    email_key TEXT NOT NULL,
    grants TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX members_by_email ON members (account_id, email_key);

ALTER TABLE accounts ADD COLUMN abuse_contact_email TEXT;
