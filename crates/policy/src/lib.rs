//! Routes and rules compiled into an immutable snapshot, and the decision on one flow.
