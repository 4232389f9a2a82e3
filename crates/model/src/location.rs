//! DNS locations: places from which devices without the agent ask for names, over HTTPS or TLS (contract D, 9.5).
//!
//! What holds: nobody is answered by default. A query is admitted because it comes from a network that the location names,
//! or because it shows a token where the location asks for one.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::id::{AccountId, LocationId, ServiceTokenId};
use crate::secret::SecretHash;

/// A location, as an edge needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Its id.
    pub id: LocationId,
    /// Its account.
    pub account: AccountId,
    /// Its name, for records.
    pub name: String,
    /// The label by which its hosts are asked for. No two locations have the same.
    pub subdomain: String,
    /// Where its queries come from, where an endpoint does not say otherwise.
    pub networks: Vec<Cidr>,
    /// DNS over HTTPS (RFC 8484).
    pub https: LocationEndpoint,
    /// DNS over TLS (RFC 7858).
    pub tls: LocationEndpoint,
    /// For how long answers may be kept.
    pub max_ttl: LocationTtl,
}

/// A way by which a location is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocationEndpoint {
    /// Whether it answers anybody.
    pub enabled: bool,
    /// Whether a query has to show a token of the account.
    #[serde(default)]
    pub require_token: bool,
    /// Where its queries come from; if it names none, those of the location count.
    pub networks: Vec<Cidr>,
}

/// For how long answers of a location may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocationTtl {
    /// As the account says.
    #[default]
    Inherit,
    /// At most so many seconds.
    Seconds(u32),
    /// For as long as the answers say.
    Unlimited,
}

/// Whether a location answers who asks from somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It does.
    Admitted,
    /// It does if a token of its account is shown.
    NeedsToken,
    /// It does not: the address is in none of its networks.
    Elsewhere,
    /// It answers nobody that way.
    Disabled,
}

impl LocationEndpoint {
    /// Whether a query from `source` is answered. `networks` are those of the location.
    ///
    /// With a token a query may come from everywhere, unless the endpoint itself names networks.
    fn admits(&self, networks: &[Cidr], source: IpAddr) -> Admission {
        let source = source.to_canonical();
        let within = |networks: &[Cidr]| networks.iter().any(|network| network.contains(source));
        if !self.enabled {
            return Admission::Disabled;
        }
        let own = !self.networks.is_empty();
        match self.require_token {
            true if own && !within(&self.networks) => Admission::Elsewhere,
            true => Admission::NeedsToken,
            false if within(if own { &self.networks } else { networks }) => Admission::Admitted,
            false => Admission::Elsewhere,
        }
    }
}

impl Location {
    /// Whether a query over HTTPS from `source` is answered.
    pub fn admits_https(&self, source: IpAddr) -> Admission {
        self.https.admits(&self.networks, source)
    }

    /// Whether a query over TLS from `source` is answered.
    pub fn admits_tls(&self, source: IpAddr) -> Admission {
        self.tls.admits(&self.networks, source)
    }
}

/// A service token, as an edge needs it to know who asks (contract D, 10.9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceToken {
    /// Its id.
    pub id: ServiceTokenId,
    /// Its account.
    pub account: AccountId,
    /// The id that its holder shows.
    pub client_id: String,
    /// What its secret is checked against.
    pub secret: SecretHash,
    /// The secret before, and until when it is good, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<(SecretHash, i64)>,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Until when it is good, in microseconds since 1970; without it for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl ServiceToken {
    /// Whether it is good at a time, in microseconds since 1970, and this is its secret.
    pub fn is_shown_by(&self, secret: &[u8], at_micros: i64) -> bool {
        let current = self.secret.matches(secret);
        let previous = self.previous.is_some_and(|(hash, until)| hash.matches(secret) && at_micros < until);
        (current || previous) && self.enabled && self.expires_at.is_none_or(|until| at_micros < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn networks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[track_caller]
    fn check(location: &[&str], endpoint: (bool, bool, &[&str]), source: &str, expected: Admission) {
        let (enabled, require_token, of_endpoint) = endpoint;
        let endpoint = LocationEndpoint { enabled, require_token, networks: networks(of_endpoint) };
        assert_eq!(endpoint.admits(&networks(location), source.parse().unwrap()), expected);
    }

    #[test]
    fn nobody_is_admitted_but_from_a_named_network_or_with_a_token() {
        use Admission::{Admitted, Disabled, Elsewhere, NeedsToken};
        let office = ["192.0.2.0/24", "2001:db8::/32"];
        check(&[], (true, false, &[]), "192.0.2.7", Elsewhere);
        check(&office, (true, false, &[]), "192.0.2.7", Admitted);
        check(&office, (true, false, &[]), "::ffff:192.0.2.7", Admitted);
        check(&office, (true, false, &[]), "2001:db8::7", Admitted);
        check(&office, (true, false, &[]), "198.51.100.7", Elsewhere);
        check(&office, (false, false, &[]), "192.0.2.7", Disabled);
        // An endpoint's own networks stand in the place of the location's.
        check(&office, (true, false, &["198.51.100.7/32"]), "198.51.100.7", Admitted);
        check(&office, (true, false, &["198.51.100.7/32"]), "192.0.2.7", Elsewhere);
        check(&office, (true, true, &[]), "203.0.113.9", NeedsToken);
        check(&office, (true, true, &[]), "192.0.2.7", NeedsToken);
        check(&office, (true, true, &["198.51.100.7/32"]), "192.0.2.7", Elsewhere);
        check(&office, (true, true, &["198.51.100.7/32"]), "198.51.100.7", NeedsToken);
    }

    #[test]
    fn a_service_token_is_good_with_its_secret_until_it_ends() {
        let token = ServiceToken {
            id: ServiceTokenId::from_uuid(Uuid::from_u128(1)),
            account: AccountId::from_bytes([1; 16]),
            client_id: "x.access".into(),
            secret: SecretHash::of(b"new"),
            previous: Some((SecretHash::of(b"old"), 10)),
            enabled: true,
            expires_at: Some(20),
        };
        assert!(token.is_shown_by(b"new", 19) && !token.is_shown_by(b"new", 20));
        assert!(token.is_shown_by(b"old", 9) && !token.is_shown_by(b"old", 10));
        assert!(!token.is_shown_by(b"other", 0));
        assert!(!ServiceToken { enabled: false, ..token }.is_shown_by(b"new", 0));
    }
}
