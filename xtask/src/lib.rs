//! Checks of the tree itself. They are tests (`tests/tidy.rs`), so that `make test` runs them; nothing depends on this.
