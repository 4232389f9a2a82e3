//! The only crate that speaks SQL: schema, transactions, change log, sealed secrets.
//!
//! A [`Store`] is a directory with `seal.key`, held by one process at a time, and a database: SQLite's `adit.db` in the
//! directory, or one of PostgreSQL, which several nodes share. Both are spoken to by the same statements. What always
//! holds:
//!
//! - A mutation is one transaction, or part of one with others that were asked for at the same time: the objects, the audit
//!   record and the entry of the change log stand or fall together, and every entry has the next number.
//! - [`Store::state`] is what replaying the change log gives: an edge that follows from its number misses nothing.
//! - Uniqueness is checked inside the transaction, and writers take turns, so that of two equal requests one wins.
//! - Values that are only compared are stored hashed; values that must be used again are sealed with `seal.key`.
//!
//! Functions are named object first (`route_list`), so that what concerns one object sorts together. The store checks
//! what needs the database (uniqueness, references); the form of names and texts is the caller's to check.

mod audit;
mod backup;
mod batch;
mod certificate;
mod configuration;
mod device;
mod fallback;
mod feed;
mod gateway;
mod group;
mod hostname;
mod hostname_route;
mod list;
mod location;
mod member;
mod node;
mod node_authority;
mod node_database;
mod open;
mod origin_root;
mod page;
mod query;
mod records;
mod route;
mod row;
mod rule;
mod seal;
mod secret;
mod service_token;
mod session;
mod state;
mod tenant;
mod tenant_removal;
mod token;
mod tunnel;
mod virtual_network;
mod write;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::AnyPool;
use tokio::sync::watch;

pub use audit::{AuditPlace, AuditRow, AuditWindow, Direction};
pub use backup::{BackupError, backup};
pub use batch::{Batch, BatchCommitError};
pub use certificate::{CertificateError, CertificateKind, CertificateRow, MAX_CERTIFICATES, NewCertificate};
pub use configuration::ConfigurationRow;
pub use device::{
    DeviceRow, EnrollError, NewRegistration, RegistrationFilter, RegistrationRow, RegistrationStatus,
};
pub use feed::Feed;
pub use gateway::{GatewaySettingsContent, GatewaySettingsError, GatewaySettingsRow, InspectionAuthorityRow};
pub use hostname::{HostnameFilter, HostnamePut, HostnameRow, HostnameWriteError, Overwrite};
pub use hostname_route::{
    HostnameRouteEdit, HostnameRouteFilter, HostnameRouteRow, HostnameRouteWriteError, NewHostnameRoute,
};
pub use list::{ItemRow, ListDeleteError, ListEdit, ListRow, ListWriteError, NewItem, NewList};
pub use location::{LocationContent, LocationEdge, LocationRow, LocationWriteError};
pub use member::{MemberCreateError, MemberRow};
pub use node::{EnrolledNode, NODE_SILENT_AFTER, NewNode, NodeCreateError, NodeRow, OwnNodeError, RoleMade};
pub use node_authority::{NodeAuthority, SigningNode};
pub use node_database::{Cluster, NodeDatabase, NodeDatabaseError, NodeRecord, Notices};
pub use open::OpenError;
pub use origin_root::{MAX_ORIGIN_ROOTS, OriginRootContent, OriginRootError, OriginRootRow};
pub use page::{Page, Window};
pub use records::{RecordKey, RecordRow, RecordWindow, Records, Retention};
pub use route::{NewRoute, RouteEdit, RouteFilter, RouteRow, RouteWriteError, Takeover};
pub use row::Fault;
pub use rule::{Expiration, NewRule, RuleContent, RuleRow, RuleText, RuleWriteError};
pub use service_token::{NewServiceToken, ServiceTokenEdit, ServiceTokenRow};
pub use tenant::{AccountCreateError, AccountEdit, AccountRow, AccountUpdateError, Bootstrap};
pub use tenant_removal::{AccountDeleteError, Holdings};
pub use token::{NewToken, TokenEdit, TokenRow};
pub use tunnel::{
    Cascade, ConfigSource, NewTunnel, TunnelDeleteError, TunnelEdit, TunnelFilter, TunnelKind, TunnelRow,
    TunnelWriteError,
};
pub use virtual_network::{
    NewVirtualNetwork, VirtualNetworkDeleteError, VirtualNetworkEdit, VirtualNetworkFilter,
    VirtualNetworkRow, VirtualNetworkWriteError,
};
pub use write::{Actor, FindError, RawCall, Written};

/// Whether deleted objects are wanted in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deleted {
    /// Live and deleted ones (contract D, 6.2: the parameter is absent).
    #[default]
    Both,
    /// Deleted ones only.
    Only,
    /// Live ones only.
    Without,
}

/// The database of one installation, or of a batch. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>, Option<batch::Open>);

struct Inner {
    dir: PathBuf,
    /// One connection: writers take turns before they begin, not by failing.
    writer: AnyPool,
    group: group::Group,
    readers: AnyPool,
    records: Records,
    backend: session::Backend,
    seal: seal::SealKey,
    /// The number of the last committed entry of the change log.
    number: Arc<watch::Sender<u64>>,
    /// Listens to the other nodes of a PostgreSQL database.
    listener: Option<AbortOnDrop>,
    /// Locked for as long as the store is open.
    _lock: File,
}

impl Store {
    /// The directory in which it lies.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The number of the last entry of the change log that is known here: what was written through this store is in it.
    pub fn generation(&self) -> u64 {
        *self.0.number.borrow()
    }

    /// The log records.
    pub fn records(&self) -> &Records {
        &self.0.records
    }

    /// Ends all connections; the database's log is written back. Later calls fail.
    pub async fn close(&self) {
        if let Some(listener) = &self.0.listener {
            listener.0.abort();
        }
        self.0.records.close().await;
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}

impl Inner {
    /// Wakes those who follow the change log: it goes at least up to this number.
    fn tell(&self, number: u64) {
        feed::tell(&self.number, number);
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}
