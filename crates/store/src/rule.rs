//! Gateway rules (contract D, 8). Whether a rule makes sense is the caller's to check; the store sees to its place among
//! the rules of its filter, to the lists that it names, and to its version.
//!
//! Two rules of a filter never have the same precedence. Within a batch, one that is given another's is put aside: its row has
//! the precedence below zero ([`aside`]), and gets it when the batch settles, by when the other has to have left it. So two
//! rules can change places. Nothing but the row knows of it: results, records and changes have the precedence itself.

use adit_model::{
    AccountId, Action, Change, Filter, ListId, MAX_PRECEDENCE, Rule, RuleId, RuleSettings, Schedule,
};
use time::{Duration, OffsetDateTime};

use crate::row::{Columns, Connection, Fault, Row, to_micros};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Store, Written};

/// The place of an account's first rule in a filter (contract D, 8.3).
const FIRST_PRECEDENCE: u64 = 1000;
/// How far behind the last rule a new one may be put.
const MAX_STEP: u128 = 100;
/// How long a deleted rule is kept (contract D, 19).
const KEPT: Duration = Duration::days(90);

/// An expression in both its forms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleText {
    /// As it was given.
    pub written: String,
    /// As it was understood.
    pub canonical: String,
}

/// Until when a rule is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiration {
    /// Until when.
    pub at: OffsetDateTime,
    /// For how many minutes, when it is set anew.
    pub minutes: Option<u32>,
}

/// What people say of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleContent {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether it is asked.
    pub enabled: bool,
    /// What it filters.
    pub filter: Filter,
    /// What it does.
    pub action: Action,
    /// What is filtered.
    pub traffic: RuleText,
    /// Whose it is.
    pub identity: RuleText,
    /// From what device.
    pub device_posture: RuleText,
    /// How it does it.
    pub settings: RuleSettings,
    /// The same as an object, its texts as they were given.
    pub settings_as_written: serde_json::Value,
    /// When it is in force.
    pub schedule: Option<Schedule>,
    /// Until when it is in force.
    pub expiration: Option<Expiration>,
    /// What was remarked on its expressions.
    pub remarks: Vec<String>,
}

/// A rule to make, or what one is to be like.
#[derive(Debug, Clone)]
pub struct NewRule {
    /// What is said of it.
    pub content: RuleContent,
    /// Its place among the rules of its filter. Without one, a new rule comes behind all others, and another keeps its
    /// own.
    pub precedence: Option<u64>,
    /// The lists that its expressions name.
    pub lists: Vec<ListId>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRow {
    /// Its id.
    pub id: RuleId,
    /// Its account.
    pub account: AccountId,
    /// What is said of it.
    pub content: RuleContent,
    /// Its place among the rules of its filter: no two have the same.
    pub precedence: u64,
    /// Which version of it, from 1.
    pub version: u64,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed.
    pub updated_at: OffsetDateTime,
}

/// A rule could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum RuleWriteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// Another rule of the filter has the precedence.
    #[error("the precedence is taken by {by}")]
    PrecedenceTaken {
        /// The other rule's name.
        by: String,
    },
    /// There is no precedence behind that of the last rule.
    #[error("no precedence is left")]
    PrecedencesUsedUp,
    /// The account has no such list, or no longer.
    #[error("no list {0}")]
    ListNotFound(ListId),
    /// It does not say for how long it is to be in force.
    #[error("it has no duration")]
    NoDuration,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A rule that was put aside in a batch cannot have its precedence: another rule still has it.
#[derive(Debug)]
pub(crate) struct PrecedenceTaken {
    /// The rule.
    pub(crate) rule: RuleId,
    /// The other rule's name.
    pub(crate) by: String,
}

impl From<sqlx::Error> for RuleWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a rule.
    pub async fn rule_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewRule,
    ) -> Result<Written<RuleRow>, RuleWriteError> {
        let mut write = self.write().await?;
        let precedence = match new.precedence {
            Some(precedence) => precedence,
            None => precedence_behind(write.sql(), account, new.content.filter).await?,
        };
        let row = RuleRow {
            id: RuleId::from_uuid(new_uuid()),
            account,
            content: new.content,
            precedence,
            version: 1,
            created_at: write.time(),
            updated_at: write.time(),
        };
        let stored = precedence_stored(&mut write, &row).await?;
        rule_insert(&mut write, &row, stored).await?;
        lists_set(write.sql(), &row, &new.lists).await?;
        write.change(row.change());
        Ok(self.rule_commit(write, actor, "rule.create", row).await?)
    }

    /// Makes a rule what is said, in all of it.
    pub async fn rule_replace(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RuleId,
        new: NewRule,
    ) -> Result<Written<RuleRow>, RuleWriteError> {
        let mut write = self.write().await?;
        let mut row = rule_find(write.sql(), account, id).await?.ok_or(RuleWriteError::NotFound)?;
        row.precedence = new.precedence.unwrap_or(row.precedence);
        row.content = new.content;
        let stored = precedence_stored(&mut write, &row).await?;
        rule_update(&mut write, &mut row, stored).await?;
        lists_set(write.sql(), &row, &new.lists).await?;
        write.change(row.change());
        Ok(self.rule_commit(write, actor, "rule.replace", row).await?)
    }

    /// Puts a rule's end as far ahead as its duration says.
    pub async fn rule_expiration_reset(
        &self,
        actor: &Actor,
        account: AccountId,
        id: RuleId,
    ) -> Result<Written<RuleRow>, RuleWriteError> {
        let mut write = self.write().await?;
        let mut row = rule_find(write.sql(), account, id).await?.ok_or(RuleWriteError::NotFound)?;
        let minutes = row.content.expiration.and_then(|expiration| expiration.minutes);
        let minutes = minutes.ok_or(RuleWriteError::NoDuration)?;
        let now = write.time();
        let at = now.replace_nanosecond(0).unwrap_or(now) + Duration::minutes(i64::from(minutes));
        row.content.expiration = Some(Expiration { at, minutes: Some(minutes) });
        let stored = precedence_stored(&mut write, &row).await?;
        rule_update(&mut write, &mut row, stored).await?;
        write.change(row.change());
        Ok(self.rule_commit(write, actor, "rule.reset_expiration", row).await?)
    }

    /// Deletes a rule.
    pub async fn rule_delete(&self, actor: &Actor, account: AccountId, id: RuleId) -> Result<(), FindError> {
        let mut write = self.write().await?;
        let row = rule_find(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("DELETE FROM rule_lists WHERE rule_id = $1")
            .bind(id.to_string())
            .execute(write.sql())
            .await?;
        sqlx::query("UPDATE rules SET deleted_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        let long_ago = to_micros(write.time() - KEPT);
        sqlx::query("DELETE FROM rules WHERE deleted_at < $1").bind(long_ago).execute(write.sql()).await?;
        write.change(Change::RuleRemoved { id });
        self.rule_commit(write, actor, "rule.delete", row).await?;
        Ok(())
    }

    async fn rule_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: RuleRow,
    ) -> Result<Written<RuleRow>, Fault> {
        let id = row.id.to_string();
        let content = &row.content;
        let detail = serde_json::json!({
            "name": content.name, "enabled": content.enabled, "filter": content.filter, "action": content.action,
            "precedence": row.precedence, "version": row.version, "traffic": content.traffic.written,
            "identity": content.identity.written, "device_posture": content.device_posture.written,
        });
        let deed = Deed { account: Some(row.account), action, kind: "rule", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The rule with this id.
    pub async fn rule_fetch(&self, account: AccountId, id: RuleId) -> Result<RuleRow, FindError> {
        let mut reader = self.read().await?;
        rule_find(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The rules of all filters, by precedence.
    pub async fn rule_list(&self, account: AccountId) -> Result<Vec<RuleRow>, Fault> {
        let rows = sqlx::query(
            "SELECT * FROM rules WHERE account_id = $1 AND deleted_at IS NULL \
             ORDER BY precedence, created_at, id",
        )
        .bind(account.to_string())
        .fetch_all(self.read().await?.sql())
        .await?;
        rows.iter().map(rule_row).collect()
    }

    /// How many rules of all accounts are enabled, by their filters.
    pub async fn rule_enabled_counts(&self) -> Result<Vec<(Filter, u64)>, Fault> {
        let rows = sqlx::query(
            "SELECT filter, CAST(count(*) AS BIGINT) AS count FROM rules WHERE enabled = 1 AND deleted_at IS NULL GROUP BY filter",
        )
        .fetch_all(self.read().await?.sql())
        .await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "rules");
                Ok((columns.parsed("filter")?, u64::try_from(columns.number("count")?).unwrap_or(0)))
            })
            .collect()
    }
}

impl RuleRow {
    fn change(&self) -> Change {
        let content = &self.content;
        Change::RulePut(Box::new(Rule {
            id: self.id,
            account: self.account,
            name: content.name.clone(),
            version: self.version,
            precedence: self.precedence,
            enabled: content.enabled,
            filter: content.filter,
            action: content.action,
            traffic: content.traffic.canonical.clone(),
            identity: content.identity.canonical.clone(),
            device_posture: content.device_posture.canonical.clone(),
            settings: content.settings.clone(),
            schedule: content.schedule.clone(),
            expires_at_micros: content.expiration.map(|expiration| to_micros(expiration.at)),
        }))
    }
}

/// A place behind the last rule of a filter.
async fn precedence_behind(
    sql: &mut Connection,
    account: AccountId,
    filter: Filter,
) -> Result<u64, RuleWriteError> {
    let last: Option<i64> = sqlx::query_scalar(
        "SELECT max(CASE WHEN precedence < 0 THEN -precedence - 1 ELSE precedence END) FROM rules \
         WHERE account_id = $1 AND filter = $2 AND deleted_at IS NULL",
    )
    .bind(account.to_string())
    .bind(filter.as_str())
    .fetch_one(sql)
    .await?;
    let Some(last) = last else { return Ok(FIRST_PRECEDENCE) };
    let last = to_count(last, "precedence")?;
    let step = u64::try_from(new_uuid().as_u128() % MAX_STEP).unwrap_or(0) + 1;
    let step = step.min(MAX_PRECEDENCE.saturating_sub(last));
    if step == 0 { Err(RuleWriteError::PrecedencesUsedUp) } else { Ok(last + step) }
}

/// What a rule's row has for its precedence: that, or the place aside if it is another's for now.
async fn precedence_stored(write: &mut Write, row: &RuleRow) -> Result<i64, RuleWriteError> {
    let precedence = to_number(row.precedence);
    let Some(by) = precedence_taken(write.sql(), row, precedence).await? else { return Ok(precedence) };
    if !write.is_of_batch() {
        return Err(RuleWriteError::PrecedenceTaken { by });
    }
    match precedence_taken(write.sql(), row, aside(precedence)).await? {
        None => Ok(aside(precedence)),
        Some(by) => Err(RuleWriteError::PrecedenceTaken { by }),
    }
}

/// The place aside of a precedence, and the precedence of a place aside.
const fn aside(precedence: i64) -> i64 {
    -1 - precedence
}

/// Gives the rules that were put aside their precedences, unless one is taken.
pub(crate) async fn rules_settle(sql: &mut Connection) -> Result<Option<PrecedenceTaken>, Fault> {
    let taken = sqlx::query(
        "SELECT aside.id AS id, other.name AS name FROM rules aside JOIN rules other \
         ON other.account_id = aside.account_id AND other.filter = aside.filter \
         AND other.precedence = -1 - aside.precedence AND other.deleted_at IS NULL \
         WHERE aside.precedence < 0 AND aside.deleted_at IS NULL ORDER BY aside.precedence DESC LIMIT 1",
    )
    .fetch_optional(&mut *sql)
    .await?;
    if let Some(row) = taken {
        let columns = Columns::new(&row, "rules");
        return Ok(Some(PrecedenceTaken { rule: columns.parsed("id")?, by: columns.text("name")? }));
    }
    let settle = "UPDATE rules SET precedence = -1 - precedence WHERE precedence < 0";
    sqlx::query(settle).execute(sql).await?;
    Ok(None)
}

/// The name of the other live rule of the filter whose row has this for its precedence.
async fn precedence_taken(
    sql: &mut Connection,
    row: &RuleRow,
    precedence: i64,
) -> Result<Option<String>, Fault> {
    let taken: Option<String> = sqlx::query_scalar(
        "SELECT name FROM rules WHERE account_id = $1 AND filter = $2 AND precedence = $3 AND id <> $4 \
         AND deleted_at IS NULL",
    )
    .bind(row.account.to_string())
    .bind(row.content.filter.as_str())
    .bind(precedence)
    .bind(row.id.to_string())
    .fetch_optional(sql)
    .await?;
    Ok(taken)
}

/// Makes these the lists that a rule names. They are of its account, and stay while it names them.
async fn lists_set(sql: &mut Connection, row: &RuleRow, lists: &[ListId]) -> Result<(), RuleWriteError> {
    sqlx::query("DELETE FROM rule_lists WHERE rule_id = $1")
        .bind(row.id.to_string())
        .execute(&mut *sql)
        .await?;
    for list in lists {
        let stored = sqlx::query(
            "INSERT INTO rule_lists (rule_id, list_id) \
             SELECT $1, id FROM lists WHERE account_id = $2 AND id = $3",
        )
        .bind(row.id.to_string())
        .bind(row.account.to_string())
        .bind(list.to_string())
        .execute(&mut *sql)
        .await?;
        if stored.rows_affected() == 0 {
            return Err(RuleWriteError::ListNotFound(*list));
        }
    }
    Ok(())
}

async fn rule_insert(write: &mut Write, row: &RuleRow, precedence: i64) -> Result<(), Fault> {
    let at = write.at();
    sqlx::query(
        "INSERT INTO rules (id, account_id, name, description, enabled, filter, action, precedence, version, \
         traffic, traffic_canonical, identity, identity_canonical, device_posture, device_posture_canonical, \
         settings, remarks, created_at, updated_at) \
         VALUES ($1, $2, '', '', 0, $3, '', $4, 0, '', '', '', '', '', '', '', '', $5, $5)",
    )
    .bind(row.id.to_string())
    .bind(row.account.to_string())
    .bind(row.content.filter.as_str())
    .bind(precedence)
    .bind(at)
    .execute(write.sql())
    .await?;
    content_store(write, row, precedence).await
}

/// Stores what a rule is now, as its next version.
async fn rule_update(write: &mut Write, row: &mut RuleRow, precedence: i64) -> Result<(), Fault> {
    row.version += 1;
    row.updated_at = write.time();
    content_store(write, row, precedence).await
}

async fn content_store(write: &mut Write, row: &RuleRow, precedence: i64) -> Result<(), Fault> {
    let content = &row.content;
    let expiration = content.expiration;
    sqlx::query(
        "UPDATE rules SET name = $2, description = $3, enabled = $4, filter = $5, action = $6, precedence = $7, \
         version = $8, traffic = $9, traffic_canonical = $10, identity = $11, identity_canonical = $12, \
         device_posture = $13, device_posture_canonical = $14, settings = $15, schedule = $16, \
         expires_at = $17, expires_after_minutes = $18, remarks = $19, updated_at = $20 WHERE id = $1",
    )
    .bind(row.id.to_string())
    .bind(&content.name)
    .bind(&content.description)
    .bind(i64::from(content.enabled))
    .bind(content.filter.as_str())
    .bind(content.action.as_str())
    .bind(precedence)
    .bind(to_number(row.version))
    .bind(&content.traffic.written)
    .bind(&content.traffic.canonical)
    .bind(&content.identity.written)
    .bind(&content.identity.canonical)
    .bind(&content.device_posture.written)
    .bind(&content.device_posture.canonical)
    .bind(json(&content.settings_as_written)?)
    .bind(content.schedule.as_ref().map(json).transpose()?)
    .bind(expiration.map(|expiration| to_micros(expiration.at)))
    .bind(expiration.and_then(|expiration| expiration.minutes).map(i64::from))
    .bind(json(&content.remarks)?)
    .bind(to_micros(row.updated_at))
    .execute(write.sql())
    .await?;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Database(error.into()))
}

fn to_number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn to_count(number: i64, column: &'static str) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::Damaged { table: "rules", column })
}

async fn rule_find(sql: &mut Connection, account: AccountId, id: RuleId) -> Result<Option<RuleRow>, Fault> {
    let row = sqlx::query("SELECT * FROM rules WHERE account_id = $1 AND id = $2 AND deleted_at IS NULL")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(rule_row).transpose()
}

fn rule_row(row: &Row) -> Result<RuleRow, Fault> {
    let columns = Columns::new(row, "rules");
    let text = |written, canonical| {
        Ok::<_, Fault>(RuleText { written: columns.text(written)?, canonical: columns.text(canonical)? })
    };
    let minutes = columns.maybe_number("expires_after_minutes")?;
    let minutes = minutes.map(|minutes| u32::try_from(minutes).unwrap_or(u32::MAX));
    let content = RuleContent {
        name: columns.text("name")?,
        description: columns.text("description")?,
        enabled: columns.flag("enabled")?,
        filter: columns.parsed("filter")?,
        action: columns.parsed("action")?,
        traffic: text("traffic", "traffic_canonical")?,
        identity: text("identity", "identity_canonical")?,
        device_posture: text("device_posture", "device_posture_canonical")?,
        settings: columns.json_as("settings")?,
        settings_as_written: columns.json("settings")?,
        schedule: columns.maybe_json_as("schedule")?,
        expiration: columns.maybe_time("expires_at")?.map(|at| Expiration { at, minutes }),
        remarks: columns.json_as("remarks")?,
    };
    let stored = columns.number("precedence")?;
    Ok(RuleRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        content,
        precedence: to_count(if stored < 0 { aside(stored) } else { stored }, "precedence")?,
        version: to_count(columns.number("version")?, "version")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

/// Every live rule of every account, for an edge that begins.
pub(crate) async fn rule_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let live = "SELECT * FROM rules WHERE deleted_at IS NULL ORDER BY precedence, created_at, id";
    let rows = sqlx::query(live).fetch_all(sql).await?;
    rows.iter().map(|row| Ok(rule_row(row)?.change())).collect()
}
