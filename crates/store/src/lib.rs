//! The only crate that speaks SQL: schema, transactions, change log, sealed secrets.
