//! How an account's gateway treats flows beside its rules (contract D, 9.2), and the authority by which its TLS is opened.

use adit_model::{AccountBlockPage, AccountId, CertificateId, Change, GatewaySettings, Logging, OwnPage};
use serde_json::Value;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::certificate::certificate_find;
use crate::row::{Columns, Connection, Fault, Row};
use crate::seal::Place;
use crate::write::{Actor, Deed, Write};
use crate::{Store, Written};

/// An account's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewaySettingsRow {
    /// The account.
    pub account: AccountId,
    /// The object that the API answers.
    pub settings: Value,
    /// What edges need of it.
    pub edge: GatewaySettings,
    /// What blocked requests get; `None` is the page that is built in.
    pub block_page: Option<OwnPage>,
    /// When it was first set.
    pub created_at: OffsetDateTime,
    /// When it was last set.
    pub updated_at: OffsetDateTime,
}

/// An authority of certificates for inspection.
#[derive(Debug, Clone)]
pub struct InspectionAuthorityRow {
    /// Its certificate, as PEM: what devices are to trust.
    pub certificate: String,
    /// Its key, as PEM.
    pub key: Zeroizing<String>,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What an account's settings are to be.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewaySettingsContent {
    /// The object that the API answers.
    pub settings: Value,
    /// What edges need of it.
    pub edge: GatewaySettings,
    /// What blocked requests get; `None` is the page that is built in.
    pub block_page: Option<OwnPage>,
}

/// An account's settings were not changed.
#[derive(Debug, thiserror::Error)]
pub enum GatewaySettingsError {
    /// The authority that they name is not there, or not available.
    #[error("certificate {0} is not available")]
    Certificate(CertificateId),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Store {
    /// An account's settings, if it has set any.
    pub async fn gateway_settings_fetch(
        &self,
        account: AccountId,
    ) -> Result<Option<GatewaySettingsRow>, Fault> {
        let row = sqlx::query("SELECT * FROM gateway_settings WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(settings_row).transpose()
    }

    /// Changes an account's settings by a function of those that it has; what it answers is stored whole. The authority that
    /// they name has to be available.
    pub async fn gateway_settings_change<E: From<GatewaySettingsError>>(
        &self,
        actor: &Actor,
        account: AccountId,
        change: impl FnOnce(Option<&Value>) -> Result<GatewaySettingsContent, E>,
    ) -> Result<Written<GatewaySettingsRow>, E> {
        let mut write = self.write().await.map_err(fault)?;
        let row = sqlx::query("SELECT * FROM gateway_settings WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(write.sql())
            .await
            .map_err(|error| fault(error.into()))?;
        let before = row.as_ref().map(settings_row).transpose().map_err(fault)?;
        let content = change(before.as_ref().map(|before| &before.settings))?;
        let edge = content.edge;
        if edge.certificate != CertificateId::BUILT_IN {
            let named = certificate_find(write.sql(), account, edge.certificate).await.map_err(fault)?;
            if !named.is_some_and(|certificate| certificate.available) {
                return Err(GatewaySettingsError::Certificate(edge.certificate).into());
            }
        }
        // What is recorded is set by another operation, but for whether anything is.
        let kept = before.as_ref().map(|before| before.edge.logging).unwrap_or_default();
        let edge = GatewaySettings { logging: Logging { enabled: edge.logging.enabled, ..kept }, ..edge };
        let content = GatewaySettingsContent { edge, ..content };
        self.gateway_settings_put(write, actor, content, before).await.map_err(fault)
    }

    /// Changes what is recorded of an account's flows.
    pub async fn gateway_logging_set(
        &self,
        actor: &Actor,
        account: AccountId,
        logging: Logging,
    ) -> Result<Written<GatewaySettingsRow>, Fault> {
        let mut write = self.write().await?;
        let row = sqlx::query("SELECT * FROM gateway_settings WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(write.sql())
            .await?;
        let before = row.as_ref().map(settings_row).transpose()?;
        let (settings, edge, block_page) = match &before {
            Some(before) => (before.settings.clone(), before.edge, before.block_page.clone()),
            None => (serde_json::json!({}), GatewaySettings::of(account), None),
        };
        let edge = GatewaySettings { logging: Logging { enabled: edge.logging.enabled, ..logging }, ..edge };
        let content = GatewaySettingsContent { settings, edge, block_page };
        self.gateway_settings_put(write, actor, content, before).await
    }

    async fn gateway_settings_put(
        &self,
        mut write: Write,
        actor: &Actor,
        content: GatewaySettingsContent,
        before: Option<GatewaySettingsRow>,
    ) -> Result<Written<GatewaySettingsRow>, Fault> {
        let GatewaySettingsContent { settings, edge, block_page } = content;
        let account = edge.account;
        let at = write.at();
        let edge_settings = serde_json::to_string(&edge)
            .map_err(|_| Fault::Damaged { table: TABLE, column: "edge_settings" })?;
        let page = block_page.as_ref().map(serde_json::to_string).transpose();
        let page = page.map_err(|_| Fault::Damaged { table: TABLE, column: "block_page" })?;
        sqlx::query(
            "INSERT INTO gateway_settings (account_id, settings, edge_settings, created_at, updated_at, block_page) \
             VALUES ($1, $2, $3, $4, $4, $5) \
             ON CONFLICT (account_id) DO UPDATE \
             SET settings = $2, edge_settings = $3, updated_at = $4, block_page = $5",
        )
        .bind(account.to_string())
        .bind(settings.to_string())
        .bind(edge_settings)
        .bind(at)
        .bind(page)
        .execute(write.sql())
        .await?;
        let now = write.time();
        let page_before = before.as_ref().and_then(|before| before.block_page.as_ref());
        if page_before != block_page.as_ref() {
            let put = AccountBlockPage { account, page: block_page.clone() };
            write.change(Change::BlockPagePut(Box::new(put)));
        }
        let created_at = before.map_or(now, |before| before.created_at);
        let row = GatewaySettingsRow { account, settings, edge, block_page, created_at, updated_at: now };
        write.change(Change::GatewaySettingsPut(edge));
        let id = account.to_string();
        let mut detail = row.settings.clone();
        detail["logging"] = serde_json::to_value(edge.logging).unwrap_or_default();
        let deed =
            Deed { account: Some(account), action: "gateway.configure", kind: "gateway", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The authority by which an account's TLS is opened, if it has one.
    pub async fn inspection_authority_fetch(
        &self,
        account: AccountId,
    ) -> Result<Option<InspectionAuthorityRow>, Fault> {
        let row = sqlx::query("SELECT * FROM inspection_authorities WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(|row| self.authority_row(account, row)).transpose()
    }

    /// Stores the authority of an account that has none yet, and returns the one that is stored: of several callers the
    /// first one's stays.
    pub async fn inspection_authority_create(
        &self,
        actor: &Actor,
        account: AccountId,
        certificate: &str,
        key: &str,
    ) -> Result<InspectionAuthorityRow, Fault> {
        let mut write = self.write().await?;
        let id = account.to_string();
        let stored = sqlx::query("SELECT * FROM inspection_authorities WHERE account_id = $1")
            .bind(&id)
            .fetch_optional(write.sql())
            .await?;
        if let Some(row) = stored {
            return self.authority_row(account, &row);
        }
        let at = write.at();
        sqlx::query(
            "INSERT INTO inspection_authorities (account_id, certificate, key_sealed, created_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(&id)
        .bind(certificate)
        .bind(self.0.seal.seal(place(&id), key.as_bytes()))
        .bind(at)
        .execute(write.sql())
        .await?;
        let row = InspectionAuthorityRow {
            certificate: certificate.to_owned(),
            key: Zeroizing::new(key.to_owned()),
            created_at: write.time(),
        };
        let deed = Deed {
            account: Some(account),
            action: "inspection_authority.create",
            kind: "inspection_authority",
            id: &id,
            detail: Value::Null,
        };
        Ok(self.commit(write, actor, deed, row).await?.value)
    }

    fn authority_row(&self, account: AccountId, row: &Row) -> Result<InspectionAuthorityRow, Fault> {
        let columns = Columns::new(row, AUTHORITIES);
        let damaged = || Fault::Damaged { table: AUTHORITIES, column: "key_sealed" };
        let key = self
            .0
            .seal
            .open(place(&account.to_string()), &columns.text("key_sealed")?)
            .map_err(|_| damaged())?;
        let key = std::str::from_utf8(&key).map_err(|_| damaged())?.to_owned();
        Ok(InspectionAuthorityRow {
            certificate: columns.text("certificate")?,
            key: Zeroizing::new(key),
            created_at: columns.time("created_at")?,
        })
    }
}

fn fault<E: From<GatewaySettingsError>>(fault: Fault) -> E {
    GatewaySettingsError::Fault(fault).into()
}

const TABLE: &str = "gateway_settings";
const AUTHORITIES: &str = "inspection_authorities";

const fn place(account: &str) -> Place<'_> {
    Place { table: AUTHORITIES, column: "key_sealed", row: account }
}

/// The authority that an account's settings name.
pub(crate) async fn certificate_in_use(
    sql: &mut Connection,
    account: AccountId,
) -> Result<CertificateId, Fault> {
    let row = sqlx::query("SELECT * FROM gateway_settings WHERE account_id = $1")
        .bind(account.to_string())
        .fetch_optional(sql)
        .await?;
    let settings = row.as_ref().map(settings_row).transpose()?;
    Ok(settings.map_or(CertificateId::BUILT_IN, |row| row.edge.certificate))
}

/// Every account's settings, as changes to an empty state.
pub(crate) async fn gateway_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = settings_all(sql).await?;
    let mut changes = Vec::with_capacity(rows.len());
    for GatewaySettingsRow { account, edge, block_page, .. } in rows {
        changes.push(Change::GatewaySettingsPut(edge));
        if block_page.is_some() {
            changes.push(Change::BlockPagePut(Box::new(AccountBlockPage { account, page: block_page })));
        }
    }
    Ok(changes)
}

/// Every account's settings.
pub(crate) async fn settings_all(sql: &mut Connection) -> Result<Vec<GatewaySettingsRow>, Fault> {
    let rows = sqlx::query("SELECT * FROM gateway_settings ORDER BY account_id").fetch_all(sql).await?;
    rows.iter().map(settings_row).collect()
}

fn settings_row(row: &Row) -> Result<GatewaySettingsRow, Fault> {
    let columns = Columns::new(row, TABLE);
    Ok(GatewaySettingsRow {
        account: columns.parsed("account_id")?,
        settings: columns.json("settings")?,
        edge: columns.json_as("edge_settings")?,
        block_page: columns.maybe_json_as("block_page")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
