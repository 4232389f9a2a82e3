//! Operations, and over them the v4 API.
