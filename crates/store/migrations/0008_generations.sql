-- Whose an entry is: of one account, of none (''), or, when it is absent, of several or from before this column.
ALTER TABLE changes ADD COLUMN account_id TEXT;
CREATE INDEX changes_by_account ON changes (account_id, number);
