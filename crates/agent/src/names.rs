//! The device's resolver: programs ask at an address of the interface, and the edge answers.
//!
//! Queries come as flows to [`RESOLVER_V4`] and [`RESOLVER_V6`] ([`crate::capture`] hands them over); each is carried to the
//! edge on one long-lived stream ([`line`]). Some names are not the edge's to answer: the edges' own, without which it could
//! not be found, and those below the fallback domains that the operator names. They go to the resolvers that the system had
//! before ([`outside`]), past every rule. [`system`] points the system here, and back.
//!
//! What always holds: a name that is not a fallback's is asked of the edge or not at all, so that no rule is passed by where
//! the edge is gone; every query is answered, if only that it failed, within [`line::DEADLINE`].

mod line;
mod outside;
pub(crate) mod system;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::str::FromStr;

use adit_model::Cidr;
use adit_wire::dns::hickory_proto::op::{Message, ResponseCode};
use adit_wire::dns::{
    self, ExtendedError, MAX_MESSAGE_BYTES, NotResolvable, PORT, RESOLVER_V4, RESOLVER_V6, datagram_limit,
    encode, failure,
};
use tokio::sync::watch;

use crate::carrier::Carrier;
use line::Line;
use outside::Over;

/// Whether the system is pointed to the agent's resolver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SystemDns {
    /// While the device is connected, and back when it is not.
    #[default]
    Auto,
    /// Never: who wants to ask, asks.
    Off,
}

/// A text is no [`SystemDns`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected auto or off")]
pub struct UnknownSystemDns;

impl FromStr for SystemDns {
    type Err = UnknownSystemDns;

    fn from_str(text: &str) -> Result<Self, UnknownSystemDns> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(UnknownSystemDns),
        }
    }
}

/// A domain whose names are resolved outside of the edge and its rules (Gateway semantics, 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// In lower case, without dots at its ends.
    suffix: String,
    /// Who is asked; the system's former resolvers if nobody is named.
    resolver: Option<SocketAddr>,
}

/// A text is no [`Fallback`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FallbackError {
    /// The part before the `=`.
    #[error("expected a domain such as corp.example, not {0:?}")]
    Suffix(String),
    /// The part behind it.
    #[error("expected the address of a resolver behind the =, not {0:?}")]
    Resolver(String),
}

impl FromStr for Fallback {
    type Err = FallbackError;

    /// `SUFFIX` or `SUFFIX=RESOLVER`, which is an address with or without a port.
    fn from_str(text: &str) -> Result<Self, FallbackError> {
        let (suffix, resolver) = text.split_once('=').map_or((text, None), |(suffix, at)| (suffix, Some(at)));
        let name = suffix.trim_matches('.').to_ascii_lowercase();
        let label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(good)
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(FallbackError::Suffix(suffix.to_owned()));
        }
        let resolver =
            resolver.map(|text| dns::resolver(text).ok_or_else(|| FallbackError::Resolver(text.to_owned())));
        Ok(Self { suffix: name, resolver: resolver.transpose()? })
    }
}

impl Fallback {
    fn holds(&self, name: &str) -> bool {
        let before = name.strip_suffix(self.suffix.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

/// Whether a flow goes to the resolver.
pub(crate) fn is_resolver(destination: SocketAddr) -> bool {
    destination.port() == PORT && addresses().contains(&destination.ip())
}

/// The resolver's addresses.
pub(crate) fn addresses() -> [IpAddr; 2] {
    [RESOLVER_V4.into(), RESOLVER_V6.into()]
}

/// The same as networks, to be routed.
pub(crate) fn networks() -> Vec<Cidr> {
    addresses().into_iter().filter_map(|address| Cidr::new(address.into()).ok()).collect()
}

/// What answers on the device.
pub(crate) struct Names<C> {
    line: Line<C>,
    fallbacks: Vec<Fallback>,
    /// The edges by their names.
    edges: Box<dyn Fn() -> Vec<String>>,
    /// The resolvers that the system had.
    former: Rc<RefCell<Vec<SocketAddr>>>,
}

/// How a query came, and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Datagram,
    Stream,
}

impl<C: Carrier + Clone> Names<C> {
    pub(crate) fn new(
        carrier: watch::Receiver<Option<C>>,
        fallbacks: Vec<Fallback>,
        edges: Box<dyn Fn() -> Vec<String>>,
        former: Rc<RefCell<Vec<SocketAddr>>>,
    ) -> Self {
        Self { line: Line::new(carrier), fallbacks, edges, former }
    }

    /// Answers one query. `None` for what is no query.
    pub(crate) async fn answer(&self, bytes: &[u8], from: From) -> Option<Vec<u8>> {
        let query = match dns::query(bytes) {
            Ok(query) => query,
            Err(NotResolvable::NoQuery) => return None,
            Err(NotResolvable::Answer(answer)) => return Some(encode(&answer, MAX_MESSAGE_BYTES)),
        };
        let name = dns::text(&query.queries.first()?.name);
        let answer = match self.outside(&name) {
            Some(resolvers) => {
                let over = if from == From::Datagram { Over::Udp } else { Over::Tcp };
                outside::ask(&resolvers, bytes, &query, over).await
            }
            None => self.line.ask(bytes, &query).await,
        };
        if let Some(answer) = answer {
            return Some(fitting(answer, &query, from));
        }
        let why = Some((ExtendedError::NetworkError, "no resolver can be reached"));
        Some(encode(&failure(&query, ResponseCode::ServFail, why), MAX_MESSAGE_BYTES))
    }

    /// Who is asked for a name that is not the edge's to answer.
    fn outside(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let found = self.fallbacks.iter().filter(|fallback| fallback.holds(name));
        if let Some(closest) = found.max_by_key(|fallback| fallback.suffix.len()) {
            return Some(closest.resolver.map_or_else(|| self.former.borrow().clone(), |one| vec![one]));
        }
        (self.edges)().iter().any(|edge| edge == name).then(|| self.former.borrow().clone())
    }
}

/// An answer that is longer than a datagram may be goes without its records, so that it is asked for again on a stream.
fn fitting(answer: Vec<u8>, query: &Message, from: From) -> Vec<u8> {
    let limit = datagram_limit(query);
    if from == From::Stream || answer.len() <= limit {
        return answer;
    }
    match Message::from_vec(&answer) {
        Ok(message) => encode(&message, limit),
        Err(_) => encode(&failure(query, ResponseCode::ServFail, None), limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_holds_its_name_and_what_is_below_it() {
        let fallback: Fallback = ".Corp.Example.=192.0.2.53".parse().unwrap();
        assert_eq!(fallback.resolver, Some("192.0.2.53:53".parse().unwrap()));
        for inside in ["corp.example", "a.corp.example", "a.b.corp.example"] {
            assert!(fallback.holds(inside), "{inside}");
        }
        for outside in ["acorp.example", "example", "corp.example.org", ""] {
            assert!(!fallback.holds(outside), "{outside}");
        }
        let v6: Fallback = "local=[2001:db8::53]:5353".parse().unwrap();
        assert_eq!(v6.resolver, Some("[2001:db8::53]:5353".parse().unwrap()));
        for wrong in ["", ".", "a..b", "a b", "a=", "a=b"] {
            assert!(wrong.parse::<Fallback>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_resolver_is_port_53_of_two_addresses() {
        assert!(is_resolver("100.80.0.53:53".parse().unwrap()));
        assert!(is_resolver("[fd61:6469:7400::53]:53".parse().unwrap()));
        assert!(!is_resolver("100.80.0.53:54".parse().unwrap()));
        assert!(!is_resolver("100.80.0.54:53".parse().unwrap()));
    }
}
