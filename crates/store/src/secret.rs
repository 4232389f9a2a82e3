//! Named secrets of the installation, such as the key of the edge's certificate authority.

use sqlx::Row;
use zeroize::Zeroizing;

use crate::Store;
use crate::row::Fault;
use crate::seal::Place;
use crate::write::{Actor, Deed};

impl Store {
    /// The secret of this name, if there is one.
    pub async fn secret_fetch(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        let row = sqlx::query("SELECT sealed FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(self.read().await?.sql())
            .await?;
        let Some(row) = row else { return Ok(None) };
        self.secret_open(name, row.try_get("sealed")?).map(Some)
    }

    /// Stores a secret under a name that has none yet, and returns the one that is stored: of several callers the first
    /// one's stays.
    pub async fn secret_create(
        &self,
        actor: &Actor,
        name: &str,
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut write = self.write().await?;
        let stored = sqlx::query("SELECT sealed FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(write.sql())
            .await?;
        if let Some(row) = stored {
            return self.secret_open(name, row.try_get("sealed")?);
        }
        let at = write.at();
        sqlx::query("INSERT INTO secrets (name, sealed, updated_at) VALUES ($1, $2, $3)")
            .bind(name)
            .bind(self.0.seal.seal(place(name), secret))
            .bind(at)
            .execute(write.sql())
            .await?;
        let deed = Deed {
            account: None,
            action: "secret.create",
            kind: "secret",
            id: name,
            detail: serde_json::Value::Null,
        };
        self.commit(write, actor, deed, ()).await?;
        Ok(Zeroizing::new(secret.to_vec()))
    }

    fn secret_open(&self, name: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let damaged = |_| Fault::Damaged { table: "secrets", column: "sealed" };
        self.0.seal.open(place(name), sealed).map_err(damaged)
    }
}

const fn place(name: &str) -> Place<'_> {
    Place { table: "secrets", column: "sealed", row: name }
}
