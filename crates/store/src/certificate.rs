//! The authorities of inspection that an account has beside its built-in one (contract D, 9.4).
//!
//! What holds: a key is stored sealed and comes out only by [`Store::inspection_key`]; the authority that the account's
//! settings name stays available and is not deleted; of an account there are at most [`MAX_CERTIFICATES`].

use adit_model::{AccountId, CertificateId};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::gateway::certificate_in_use;
use crate::row::{Columns, Connection, Fault, Row};
use crate::seal::Place;
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Store, Written};

/// Authorities of one account, the built-in one not counted: a rotation needs two.
pub const MAX_CERTIFICATES: usize = 32;

/// Where an authority comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateKind {
    /// It was made here.
    Managed,
    /// It was uploaded.
    Custom,
}

impl CertificateKind {
    /// The kind's name in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Managed => "gateway_managed",
            Self::Custom => "custom",
        }
    }
}

impl std::str::FromStr for CertificateKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Managed, Self::Custom].into_iter().find(|kind| kind.as_str() == text).ok_or(())
    }
}

/// An authority, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    /// Its id.
    pub id: CertificateId,
    /// Its account.
    pub account: AccountId,
    /// Where it comes from.
    pub kind: CertificateKind,
    /// Whether certificates that it signs may be shown.
    pub available: bool,
    /// Its certificate, as PEM.
    pub certificate: String,
    /// When it was made or uploaded.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// An authority to store.
#[derive(Debug)]
pub struct NewCertificate {
    /// Where it comes from.
    pub kind: CertificateKind,
    /// Its certificate, as PEM.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: Zeroizing<String>,
}

/// An authority could not be made, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// The account's settings name it.
    #[error("it is in use")]
    InUse,
    /// The account has as many as it may have.
    #[error("there are {MAX_CERTIFICATES} already")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for CertificateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Stores an authority, which is not available yet.
    pub async fn certificate_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewCertificate,
    ) -> Result<Written<CertificateRow>, CertificateError> {
        let mut write = self.write().await?;
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM inspection_certificates WHERE account_id = $1")
                .bind(account.to_string())
                .fetch_one(write.sql())
                .await?;
        if usize::try_from(count).is_ok_and(|count| count >= MAX_CERTIFICATES) {
            return Err(CertificateError::TooMany);
        }
        let row = CertificateRow {
            id: CertificateId::from_uuid(new_uuid()),
            account,
            kind: new.kind,
            available: false,
            certificate: new.certificate,
            created_at: write.time(),
            updated_at: write.time(),
        };
        let (id, at) = (row.id.to_string(), write.at());
        sqlx::query(
            "INSERT INTO inspection_certificates \
             (id, account_id, kind, available, certificate, key_sealed, created_at, updated_at) \
             VALUES ($1, $2, $3, 0, $4, $5, $6, $6)",
        )
        .bind(&id)
        .bind(account.to_string())
        .bind(row.kind.as_str())
        .bind(&row.certificate)
        .bind(self.0.seal.seal(place(&id), new.key.as_bytes()))
        .bind(at)
        .execute(write.sql())
        .await?;
        Ok(self.certificate_commit(write, actor, "inspection_certificate.create", row).await?)
    }

    /// Makes an authority available or not. The one that the account's settings name stays available.
    pub async fn certificate_available_set(
        &self,
        actor: &Actor,
        account: AccountId,
        id: CertificateId,
        available: bool,
    ) -> Result<Written<CertificateRow>, CertificateError> {
        let mut write = self.write().await?;
        let mut row = certificate_find(write.sql(), account, id).await?.ok_or(CertificateError::NotFound)?;
        if !available && certificate_in_use(write.sql(), account).await? == id {
            return Err(CertificateError::InUse);
        }
        let at = write.at();
        (row.available, row.updated_at) = (available, write.time());
        sqlx::query("UPDATE inspection_certificates SET available = $2, updated_at = $3 WHERE id = $1")
            .bind(id.to_string())
            .bind(i64::from(available))
            .bind(at)
            .execute(write.sql())
            .await?;
        let action =
            if available { "inspection_certificate.activate" } else { "inspection_certificate.deactivate" };
        Ok(self.certificate_commit(write, actor, action, row).await?)
    }

    /// Deletes an authority and its key, unless the account's settings name it.
    pub async fn certificate_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: CertificateId,
    ) -> Result<CertificateRow, CertificateError> {
        let mut write = self.write().await?;
        let row = certificate_find(write.sql(), account, id).await?.ok_or(CertificateError::NotFound)?;
        if certificate_in_use(write.sql(), account).await? == id {
            return Err(CertificateError::InUse);
        }
        // What it has signed for nodes goes with it.
        for statement in [
            "DELETE FROM node_authorities WHERE certificate_id = $1",
            "DELETE FROM inspection_certificates WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id.to_string()).execute(write.sql()).await?;
        }
        Ok(self.certificate_commit(write, actor, "inspection_certificate.delete", row).await?.value)
    }

    async fn certificate_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: CertificateRow,
    ) -> Result<Written<CertificateRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({ "type": row.kind.as_str(), "available": row.available });
        let deed =
            Deed { account: Some(row.account), action, kind: "inspection_certificate", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The authority with this id.
    pub async fn certificate_fetch(
        &self,
        account: AccountId,
        id: CertificateId,
    ) -> Result<CertificateRow, FindError> {
        let mut reader = self.read().await?;
        certificate_find(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The account's authorities but the built-in one, oldest first.
    pub async fn certificate_list(&self, account: AccountId) -> Result<Vec<CertificateRow>, Fault> {
        let list = "SELECT * FROM inspection_certificates WHERE account_id = $1 ORDER BY created_at, id";
        let rows = sqlx::query(list).bind(account.to_string()).fetch_all(self.read().await?.sql()).await?;
        rows.iter().map(certificate_row).collect()
    }

    /// The certificate and the key of an authority, both as PEM.
    pub async fn certificate_key(
        &self,
        account: AccountId,
        id: CertificateId,
    ) -> Result<(String, Zeroizing<String>), FindError> {
        let row = sqlx::query("SELECT * FROM inspection_certificates WHERE account_id = $1 AND id = $2")
            .bind(account.to_string())
            .bind(id.to_string())
            .fetch_optional(self.read().await?.sql())
            .await?;
        let row = row.ok_or(FindError::NotFound)?;
        let columns = Columns::new(&row, TABLE);
        let damaged = || Fault::Damaged { table: TABLE, column: "key_sealed" };
        let sealed = columns.text("key_sealed")?;
        let key = self.0.seal.open(place(&id.to_string()), &sealed).map_err(|_| damaged())?;
        let key = std::str::from_utf8(&key).map_err(|_| damaged())?.to_owned();
        Ok((columns.text("certificate")?, Zeroizing::new(key)))
    }
}

const TABLE: &str = "inspection_certificates";

const fn place(id: &str) -> Place<'_> {
    Place { table: TABLE, column: "key_sealed", row: id }
}

pub(crate) async fn certificate_find(
    sql: &mut Connection,
    account: AccountId,
    id: CertificateId,
) -> Result<Option<CertificateRow>, Fault> {
    let row = sqlx::query("SELECT * FROM inspection_certificates WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(certificate_row).transpose()
}

fn certificate_row(row: &Row) -> Result<CertificateRow, Fault> {
    let columns = Columns::new(row, TABLE);
    Ok(CertificateRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        kind: columns.parsed("kind")?,
        available: columns.flag("available")?,
        certificate: columns.text("certificate")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
