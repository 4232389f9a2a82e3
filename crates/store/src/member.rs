//! People who belong to an account (contract D, 5), and what each was given.
//!
//! An address belongs once to an account, however its letters are written. Grants are kept as `control` checked them.

use adit_model::{AccountId, MemberId};
use serde_json::Value;
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// A person who belongs to an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRow {
    /// Its id.
    pub id: MemberId,
    /// The account.
    pub account: AccountId,
    /// The person's address, as it was given.
    pub email: String,
    /// `{"roles": [..]}` or `{"policies": [..]}`.
    pub grants: Value,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// A member could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemberCreateError {
    /// The address belongs to the account already.
    #[error("the address belongs to the account already")]
    EmailTaken,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for MemberCreateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a member.
    pub async fn member_create(
        &self,
        actor: &Actor,
        account: AccountId,
        email: String,
        grants: Value,
    ) -> Result<Written<MemberRow>, MemberCreateError> {
        let mut write = self.write().await?;
        let key = email.to_lowercase();
        let taken: i64 =
            sqlx::query_scalar("SELECT count(*) FROM members WHERE account_id = $1 AND email_key = $2")
                .bind(account.to_string())
                .bind(&key)
                .fetch_one(write.sql())
                .await?;
        if taken > 0 {
            return Err(MemberCreateError::EmailTaken);
        }
        let at = write.at();
        let (created_at, id) = (write.time(), MemberId::from_uuid(new_uuid()));
        let row = MemberRow { id, account, email, grants, created_at, updated_at: created_at };
        sqlx::query(
            "INSERT INTO members (id, account_id, email, email_key, grants, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.email)
        .bind(key)
        .bind(row.grants.to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
        Ok(self.member_commit(write, actor, "member.create", row).await?)
    }

    /// Gives a member other grants.
    pub async fn member_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: MemberId,
        grants: Value,
    ) -> Result<Written<MemberRow>, FindError> {
        let mut write = self.write().await?;
        let old = member_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let row = MemberRow { grants, updated_at: write.time(), ..old };
        let at = write.at();
        sqlx::query("UPDATE members SET grants = $2, updated_at = $3 WHERE id = $1")
            .bind(id.to_string())
            .bind(row.grants.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        Ok(self.member_commit(write, actor, "member.update", row).await?)
    }

    /// Takes a person out of an account.
    pub async fn member_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: MemberId,
    ) -> Result<Written<MemberRow>, FindError> {
        let mut write = self.write().await?;
        let row = member_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        sqlx::query("DELETE FROM members WHERE id = $1").bind(id.to_string()).execute(write.sql()).await?;
        Ok(self.member_commit(write, actor, "member.delete", row).await?)
    }

    async fn member_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: MemberRow,
    ) -> Result<Written<MemberRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({ "email": row.email, "grants": row.grants });
        let deed = Deed { account: Some(row.account), action, kind: "member", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The member with this id.
    pub async fn member_fetch(&self, account: AccountId, id: MemberId) -> Result<MemberRow, FindError> {
        let mut reader = self.read().await?;
        member_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The members, oldest first.
    pub async fn member_list(&self, account: AccountId, window: Window) -> Result<Page<MemberRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let total: i64 = sqlx::query_scalar("SELECT count(*) FROM members WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_one(reader.sql())
            .await?;
        let rows = sqlx::query(
            "SELECT * FROM members WHERE account_id = $1 ORDER BY created_at, id LIMIT $2 OFFSET $3",
        )
        .bind(account.to_string())
        .bind(window.limit_sql())
        .bind(window.offset_sql())
        .fetch_all(reader.sql())
        .await?;
        Page::try_from_rows(total, &rows, member_row)
    }
}

async fn member_any(
    sql: &mut Connection,
    account: AccountId,
    id: MemberId,
) -> Result<Option<MemberRow>, Fault> {
    let row = sqlx::query("SELECT * FROM members WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(member_row).transpose()
}

fn member_row(row: &Row) -> Result<MemberRow, Fault> {
    let columns = Columns::new(row, "members");
    Ok(MemberRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        email: columns.text("email")?,
        grants: columns.json("grants")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
