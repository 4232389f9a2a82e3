//! Secrets at rest: sealed with a key that lies beside the database, not in it.
//!
//! What holds: a sealed value opens only with the key that sealed it and only in the row and column that it was sealed
//! for, so that a value copied to another row is refused (AES-256-GCM, NIST SP 800-38D, with the place as associated
//! data). Nonces are random; one key seals far fewer than 2^32 values.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Length of the key in bytes.
pub(crate) const SEAL_KEY_BYTES: usize = 32;

/// The key of one installation.
pub(crate) struct SealKey(RandomizedNonceKey);

/// Where a sealed value stands: it opens nowhere else.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    pub(crate) row: &'a str,
}

/// A sealed value did not open: another key, another place, or damage.
#[derive(Debug, thiserror::Error)]
#[error("a sealed value does not open with this seal.key")]
pub(crate) struct Unopened;

impl SealKey {
    /// The key with these bytes.
    pub(crate) fn new(bytes: &[u8; SEAL_KEY_BYTES]) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("the key has AES-256's length"))
    }

    /// Seals a value for its place: nonce, ciphertext and tag in base64.
    pub(crate) fn seal(&self, place: Place<'_>, plain: &[u8]) -> String {
        let mut bytes = plain.to_vec();
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(place.associated_data()), &mut bytes)
            .expect("secrets are far shorter than AES-GCM's limit");
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&bytes);
        STANDARD.encode(sealed)
    }

    /// Opens what [`SealKey::seal`] made for the same place.
    pub(crate) fn open(&self, place: Place<'_>, sealed: &str) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let bytes = STANDARD.decode(sealed).map_err(|_| Unopened)?;
        let (nonce, body) = bytes.split_at_checked(NONCE_LEN).ok_or(Unopened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened)?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .0
            .open_in_place(nonce, Aad::from(place.associated_data()), &mut body)
            .map_err(|_| Unopened)?
            .len();
        body.truncate(length);
        Ok(body)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

impl Place<'_> {
    fn associated_data(self) -> Vec<u8> {
        format!("adit/{}/{}/{}", self.table, self.column, self.row).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { table: "tunnels", column: "secret", row: "a" };

    #[test]
    fn a_value_opens_in_its_place_with_its_key_and_nowhere_else() {
        let key = SealKey::new(&[7; 32]);
        let sealed = key.seal(PLACE, b"secret");
        assert_eq!(key.open(PLACE, &sealed).unwrap().as_slice(), b"secret");
        assert!(key.open(Place { row: "b", ..PLACE }, &sealed).is_err());
        assert!(key.open(Place { column: "other", ..PLACE }, &sealed).is_err());
        assert!(SealKey::new(&[8; 32]).open(PLACE, &sealed).is_err());
        assert_ne!(key.seal(PLACE, b"secret"), sealed, "each sealing has its own nonce");
    }

    proptest::proptest! {
        #[test]
        fn any_text_opens_or_is_refused(text in ".{0,80}", plain: Vec<u8>) {
            let key = SealKey::new(&[7; 32]);
            proptest::prop_assert!(key.open(PLACE, &text).is_err());
            let sealed = key.seal(PLACE, &plain);
            let opened = key.open(PLACE, &sealed).unwrap();
            proptest::prop_assert_eq!(opened.as_slice(), plain.as_slice());
        }
    }
}
