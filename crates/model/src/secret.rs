//! What is compared of secrets and keys: hashes, in constant time.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a secret of high entropy (a tunnel's secret, a token): enough to check one, useless to learn it.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    /// The hash of this secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// A hash as it was stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to store.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether `secret` is the one, in time that does not depend on where they differ.
    pub fn matches(&self, secret: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretHash {}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// Public keys by their hashes: one type for each kind of holder, so that a node's key cannot stand for a device's.
macro_rules! public_key {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key with this SubjectPublicKeyInfo.
            pub fn of_public_key(der: &[u8]) -> Self {
                Self(Sha256::digest(der).into())
            }

            /// A key as it was stored.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The hash's bytes.
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// URL-safe base64 without padding, 43 characters.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}

public_key! {
    /// A device's public key, by the SHA-256 of its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) in DER.
    DeviceKey;
    /// An edge node's public key, by the SHA-256 of its SubjectPublicKeyInfo (RFC 5280, 4.1.2.7) in DER.
    NodeKey;
}

/// The key that a client proved to hold in a TLS handshake, as the listener hands it on with each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedKey {
    /// The key by its hash.
    pub key: DeviceKey,
    /// The SubjectPublicKeyInfo itself, in DER.
    pub public_key_der: Vec<u8>,
}

impl PresentedKey {
    /// The key with this SubjectPublicKeyInfo.
    pub fn new(public_key_der: Vec<u8>) -> Self {
        Self { key: DeviceKey::of_public_key(&public_key_der), public_key_der }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_matches_its_secret_only_and_shows_nothing() {
        let hash = SecretHash::of(b"secret");
        assert!(hash.matches(b"secret"));
        assert!(!hash.matches(b"secre"));
        assert_eq!(format!("{hash:?}"), "SecretHash(..)");
    }
}
