//! Statements whose text depends on what is asked for.
//!
//! Their parameters are numbered (`$1`), which both databases read: sqlx's own builder writes `?` when it does not know
//! which one it speaks to, and PostgreSQL takes that for an operator. Texts that come from outside are only ever bound.

use std::fmt::Write as _;

use sqlx::Any;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::{Query, QueryScalar};

/// A statement that grows, with its parameters in order.
#[derive(Debug)]
pub(crate) struct QueryBuilder {
    text: String,
    binds: Vec<Bind>,
}

/// The value of a parameter: columns are TEXT and BIGINT only.
#[derive(Debug)]
pub(crate) enum Bind {
    Text(String),
    Number(i64),
}

impl QueryBuilder {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), binds: Vec::new() }
    }

    /// Adds to the text.
    pub(crate) fn push(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.text.push_str(text.as_ref());
        self
    }

    /// Adds a parameter.
    pub(crate) fn push_bind(&mut self, bind: impl Into<Bind>) -> &mut Self {
        self.binds.push(bind.into());
        let _infallible = write!(self.text, "${}", self.binds.len());
        self
    }

    /// Adds parameters with commas between them, as in `IN (…)`.
    pub(crate) fn push_binds<B: Into<Bind>>(&mut self, binds: impl IntoIterator<Item = B>) -> &mut Self {
        for (at, bind) in binds.into_iter().enumerate() {
            if at > 0 {
                self.push(", ");
            }
            self.push_bind(bind);
        }
        self
    }

    /// The statement, for rows.
    pub(crate) fn build(&self) -> Query<'_, Any, AnyArguments<'_>> {
        self.binds.iter().fold(sqlx::query(&self.text), |query, bind| match bind {
            Bind::Text(text) => query.bind(text.as_str()),
            Bind::Number(number) => query.bind(*number),
        })
    }

    /// The statement, for the only column of a row.
    pub(crate) fn build_query_scalar<T>(&self) -> QueryScalar<'_, Any, T, AnyArguments<'_>>
    where
        (T,): for<'r> sqlx::FromRow<'r, AnyRow>,
    {
        self.binds.iter().fold(sqlx::query_scalar(&self.text), |query, bind| match bind {
            Bind::Text(text) => query.bind(text.as_str()),
            Bind::Number(number) => query.bind(*number),
        })
    }
}

impl From<String> for Bind {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Bind {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_in_the_order_in_which_they_come() {
        let mut query = QueryBuilder::new("SELECT * FROM t WHERE a = ");
        query.push_bind("x").push(" AND b IN (").push_binds([1, 2]).push(")");
        assert_eq!(query.text, "SELECT * FROM t WHERE a = $1 AND b IN ($2, $3)");
        assert_eq!(query.binds.len(), 3);
    }
}
