//! Gateway rules, as an edge needs them: what is filtered, when it matches, and what is done then.
//!
//! The expressions are texts in canonical form; `policy` compiles them. Which settings go with which action is the control
//! plane's to check (contract D, 8.7): here every setting that a rule may carry has its type.

mod schedule;
mod settings;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, RuleId};

#[doc(hidden)]
pub use schedule::fuzz_schedule;
pub use schedule::{DAYS, DayTimes, MAX_TIMES_OF_DAY, Schedule, ScheduleError};
pub use settings::{
    BlockPage, CheckSession, Context, DnsResolver, DnsResolvers, Egress, Notification, OverrideTarget,
    Redirect, RuleSettings, Switch, UntrustedAction, UntrustedCertificate,
};

/// The largest precedence: what every client's numbers hold exactly, 2^53.
pub const MAX_PRECEDENCE: u64 = 1 << 53;

/// What a rule filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// DNS queries.
    Dns,
    /// DNS queries, and by whom they are resolved.
    DnsResolver,
    /// Flows.
    L4,
    /// Flows, and from which address they go out.
    Egress,
    /// HTTP requests.
    Http,
}

/// A text names no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected dns, http, l4, egress or dns_resolver")]
pub struct UnknownFilter;

impl Filter {
    /// All filters.
    pub const ALL: [Self; 5] = [Self::Dns, Self::DnsResolver, Self::L4, Self::Egress, Self::Http];

    /// The filter's spelling in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::DnsResolver => "dns_resolver",
            Self::L4 => "l4",
            Self::Egress => "egress",
            Self::Http => "http",
        }
    }

    /// The filter that is spelled like this.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|filter| filter.as_str() == name)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Filter {
    type Err = UnknownFilter;

    fn from_str(text: &str) -> Result<Self, UnknownFilter> {
        Self::from_name(text).ok_or(UnknownFilter)
    }
}

/// What a rule does (Gateway semantics, 2.1). Only what can be carried out is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Lets it pass.
    Allow,
    /// Refuses it.
    Block,
    /// Answers a query with other addresses or another name.
    Override,
    /// Answers with the safe host of a search engine.
    Safesearch,
    /// Answers with YouTube's restricted host.
    Ytrestricted,
    /// Passes TLS through undecrypted.
    Off,
    /// Ends the search for an `off` rule.
    On,
    /// Scans nothing of this request.
    Noscan,
    /// Sends the client elsewhere.
    Redirect,
    /// Dials another destination.
    L4Override,
    /// Chooses the source address.
    Egress,
    /// Chooses the resolver.
    Resolve,
}

/// A text names no action of [`Action`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an unknown action")]
pub struct UnknownAction;

impl Action {
    /// All actions.
    pub const ALL: [Self; 12] = [
        Self::Allow,
        Self::Block,
        Self::Override,
        Self::Safesearch,
        Self::Ytrestricted,
        Self::Off,
        Self::On,
        Self::Noscan,
        Self::Redirect,
        Self::L4Override,
        Self::Egress,
        Self::Resolve,
    ];

    /// The action's spelling in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
            Self::Override => "override",
            Self::Safesearch => "safesearch",
            Self::Ytrestricted => "ytrestricted",
            Self::Off => "off",
            Self::On => "on",
            Self::Noscan => "noscan",
            Self::Redirect => "redirect",
            Self::L4Override => "l4_override",
            Self::Egress => "egress",
            Self::Resolve => "resolve",
        }
    }

    /// The filters in which it means something (contract D, 8.5).
    pub const fn filters(self) -> &'static [Filter] {
        match self {
            Self::Allow | Self::Block => &[Filter::Dns, Filter::Http, Filter::L4],
            Self::Override | Self::Safesearch | Self::Ytrestricted => &[Filter::Dns],
            Self::Off | Self::On | Self::Noscan | Self::Redirect => &[Filter::Http],
            Self::L4Override => &[Filter::L4],
            Self::Egress => &[Filter::Egress],
            Self::Resolve => &[Filter::DnsResolver],
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(UnknownAction)
    }
}

/// A rule. Within an account and a filter no two have the same precedence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its id.
    pub id: RuleId,
    /// Its account.
    pub account: AccountId,
    /// Its name, for records and for those whom it blocks.
    pub name: String,
    /// Which version of it, from 1.
    pub version: u64,
    /// Its place among the rules of its filter: the smallest is asked first. At most [`MAX_PRECEDENCE`].
    pub precedence: u64,
    /// A rule that is not enabled is passed over.
    pub enabled: bool,
    /// What it filters.
    pub filter: Filter,
    /// What it does.
    pub action: Action,
    /// What is filtered, in canonical form; empty is everything.
    pub traffic: String,
    /// Whose it is, in canonical form; empty is everyone's.
    pub identity: String,
    /// From what device, in canonical form; empty is from any.
    pub device_posture: String,
    /// How it does it.
    pub settings: RuleSettings,
    /// When it is in force, if not always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Until when it is in force, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_micros: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_actions_are_read_as_they_are_spelled() {
        for filter in Filter::ALL {
            assert_eq!(filter.as_str().parse(), Ok(filter));
            assert_eq!(serde_json::to_value(filter).unwrap(), filter.as_str());
        }
        for action in Action::ALL {
            assert_eq!(action.as_str().parse(), Ok(action));
            assert_eq!(serde_json::to_value(action).unwrap(), action.as_str());
            assert!(!action.filters().is_empty());
        }
        assert_eq!("isolate".parse::<Action>(), Err(UnknownAction));
        assert_eq!("L4".parse::<Filter>(), Err(UnknownFilter));
    }
}
