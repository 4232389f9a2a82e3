//! From columns to values: what a column holds is checked where it is read, and nowhere later.

use std::borrow::Cow;
use std::error::Error;
use std::net::IpAddr;
use std::str::FromStr;

use adit_model::SecretHash;
use serde::de::DeserializeOwned;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;
use sqlx::{Executor as _, Row as _};
use time::OffsetDateTime;

/// A row that a statement gave.
pub(crate) type Row = AnyRow;
/// What statements are sent through.
pub(crate) type Connection = AnyConnection;

/// Runs statements that have no parameters and whose rows nobody wants.
pub(crate) async fn run(statements: &str, sql: &mut Connection) -> Result<(), sqlx::Error> {
    sql.execute(statements).await.map(drop)
}

/// The store itself failed; the caller's request may have been right.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The database did not do what it was asked.
    #[error("the database failed")]
    Database(#[source] Box<dyn Error + Send + Sync>),
    /// The database cannot be reached, or is too busy: the same request may succeed later.
    #[error("the database cannot be reached or is busy")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
    /// There is no room for what was to be stored, and nothing of it was.
    #[error("the disk of the database is full: nothing was stored, make room")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// A store of a batch was used after the batch's end.
    #[error("the batch is over")]
    Ended,
    /// A column holds what was never written there.
    #[error("the database is damaged: {column} of {table}")]
    Damaged {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(Cow::into_owned);
        match (&error, code.as_deref()) {
            (_, Some(code)) if FULL.contains(&code) => Self::Full(error.into()),
            (_, Some(code)) if code.len() == 5 && UNAVAILABLE.iter().any(|start| code.starts_with(start)) => {
                Self::Unavailable(error.into())
            }
            (_, Some(code)) if BUSY.contains(&code) => Self::Unavailable(error.into()),
            (
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::BeginFailed
                | sqlx::Error::Protocol(_),
                None,
            ) => Self::Unavailable(error.into()),
            _ => Self::Database(error.into()),
        }
    }
}

/// SQLite: no room. PostgreSQL: no room.
const FULL: [&str; 2] = ["13", "53100"];
/// SQLite: another process has it locked.
const BUSY: [&str; 4] = ["5", "6", "261", "517"];
/// PostgreSQL: the connection, its limits, its end by whoever looks after the server, its start; a lock that was not to be
/// had in time.
const UNAVAILABLE: [&str; 9] = ["08", "25P02", "25P03", "40", "53200", "53300", "55P03", "57", "58"];

/// One row of a table, read column by column.
pub(crate) struct Columns<'r> {
    row: &'r Row,
    table: &'static str,
}

impl<'r> Columns<'r> {
    pub(crate) const fn new(row: &'r Row, table: &'static str) -> Self {
        Self { row, table }
    }

    fn damaged(&self, column: &'static str) -> Fault {
        Fault::Damaged { table: self.table, column }
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String, Fault> {
        Ok(self.row.try_get(column)?)
    }

    pub(crate) fn maybe_text(&self, column: &'static str) -> Result<Option<String>, Fault> {
        Ok(self.row.try_get(column)?)
    }

    pub(crate) fn number(&self, column: &'static str) -> Result<i64, Fault> {
        Ok(self.row.try_get(column)?)
    }

    pub(crate) fn maybe_number(&self, column: &'static str) -> Result<Option<i64>, Fault> {
        Ok(self.row.try_get(column)?)
    }

    pub(crate) fn flag(&self, column: &'static str) -> Result<bool, Fault> {
        Ok(self.number(column)? != 0)
    }

    pub(crate) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, Fault> {
        self.text(column)?.parse().map_err(|_| self.damaged(column))
    }

    pub(crate) fn maybe_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, Fault> {
        self.maybe_text(column)?.map(|text| text.parse().map_err(|_| self.damaged(column))).transpose()
    }

    pub(crate) fn time(&self, column: &'static str) -> Result<OffsetDateTime, Fault> {
        from_micros(self.number(column)?).ok_or_else(|| self.damaged(column))
    }

    pub(crate) fn maybe_time(&self, column: &'static str) -> Result<Option<OffsetDateTime>, Fault> {
        let micros: Option<i64> = self.row.try_get(column)?;
        micros.map(|micros| from_micros(micros).ok_or_else(|| self.damaged(column))).transpose()
    }

    pub(crate) fn address(&self, column: &'static str) -> Result<Option<IpAddr>, Fault> {
        self.maybe_parsed(column)
    }

    pub(crate) fn hash(&self, column: &'static str) -> Result<SecretHash, Fault> {
        from_hex(&self.text(column)?).map(SecretHash::from_bytes).ok_or_else(|| self.damaged(column))
    }

    pub(crate) fn maybe_hash(&self, column: &'static str) -> Result<Option<SecretHash>, Fault> {
        let text = self.maybe_text(column)?;
        text.map(|text| from_hex(&text).map(SecretHash::from_bytes).ok_or_else(|| self.damaged(column)))
            .transpose()
    }

    pub(crate) fn json_as<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, Fault> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.damaged(column))
    }

    pub(crate) fn maybe_json_as<T: DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, Fault> {
        let text = self.maybe_text(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|_| self.damaged(column))).transpose()
    }

    pub(crate) fn json(&self, column: &'static str) -> Result<serde_json::Value, Fault> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.damaged(column))
    }
}

/// Microseconds since 1970 as a time; `None` outside the years that it can print.
pub(crate) fn from_micros(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
}

/// A time as microseconds since 1970.
pub(crate) fn to_micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).unwrap_or(i64::MAX)
}

/// Lower-case hexadecimal.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Reads exactly 32 bytes of lower-case hexadecimal.
pub(crate) fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hashes_round_trip(bytes: [u8; 32]) {
            prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_a_hash_or_not(text in ".{0,70}") {
            if let Some(bytes) = from_hex(&text) {
                prop_assert_eq!(to_hex(&bytes), text);
            }
        }

        #[test]
        fn times_round_trip(micros in -62_000_000_000_000_000i64..250_000_000_000_000_000) {
            prop_assert_eq!(from_micros(micros).map(to_micros), Some(micros));
        }
    }
}
