-- The request behind an audit record, as the client sent it.
ALTER TABLE audit ADD COLUMN method TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN uri TEXT NOT NULL DEFAULT '';
ALTER TABLE audit ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';
CREATE INDEX audit_by_account ON audit (account_id, at, id);
