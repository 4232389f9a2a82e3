//! Pieces of a list.

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many rows to pass over.
    pub offset: u64,
    /// How many rows to take at most.
    pub limit: u64,
}

impl Window {
    /// The whole list.
    pub const ALL: Self = Self { offset: 0, limit: u64::MAX };

    pub(crate) fn limit_sql(self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX)
    }

    pub(crate) fn offset_sql(self) -> i64 {
        i64::try_from(self.offset).unwrap_or(i64::MAX)
    }
}

/// Part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows of the window, oldest first.
    pub rows: Vec<T>,
    /// How many rows the list has.
    pub total: u64,
}

impl<T> Page<T> {
    /// The same page of other rows.
    ///
    /// # Errors
    /// The first that `convert` gives.
    pub(crate) fn try_from_rows<R, E>(
        total: i64,
        rows: &[R],
        convert: impl FnMut(&R) -> Result<T, E>,
    ) -> Result<Self, E> {
        let rows = rows.iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Self { rows, total: u64::try_from(total).unwrap_or(0) })
    }
}
