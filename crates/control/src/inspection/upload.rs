//! What a certificate says of itself, and whether an authority that was uploaded can sign.
//!
//! What holds: an authority that is taken has signed a certificate here, which says the issuer's name as the authority's
//! own says it and verifies by its key. Nothing of a key is in an error.

use rcgen::{CertificateParams, Issuer, KeyPair};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::KeyUsage;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use super::Authority;

/// What is said of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// From when it is good.
    pub not_before: OffsetDateTime,
    /// Until when it is good.
    pub not_after: OffsetDateTime,
    /// Who signed it, as text.
    pub issuer: String,
    /// The organisation of who signed it; empty if it names none.
    pub issuer_organisation: String,
    /// SHA-256 of it, in hexadecimal.
    pub fingerprint: String,
    /// How many authorities may stand below it; `None` for any number.
    pub path_length: Option<u32>,
    /// Whether it is an authority's that may sign certificates.
    pub may_sign: bool,
    der: Vec<u8>,
}

impl Described {
    /// Its bytes.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

/// Why an authority cannot be used. Each begins with the field that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no certificate.
    #[error("certificate: expected one certificate as PEM")]
    Certificate,
    /// It is not an authority's.
    #[error(
        "certificate: expected a certificate of an authority, which may sign others (CA:TRUE, keyCertSign)"
    )]
    NoAuthority,
    /// It is past its end.
    #[error("certificate: it is past its end")]
    Expired,
    /// It is not at its beginning yet.
    #[error("certificate: it is not good yet")]
    NotYet,
    /// The key is none.
    #[error("private_key: expected a private key as PEM, of ECDSA, Ed25519 or RSA, that is not encrypted")]
    Key,
    /// The key is another's.
    #[error("private_key: it is not the key of the certificate")]
    OtherKey,
    /// What it signs would not be taken for its own.
    #[error("certificate: its name cannot be written into the certificates that it would sign")]
    Name,
}

impl Unusable {
    /// The field that it is about.
    pub fn field(self) -> &'static str {
        match self {
            Self::Certificate | Self::NoAuthority | Self::Expired | Self::NotYet | Self::Name => {
                "certificate"
            }
            Self::Key | Self::OtherKey => "private_key",
        }
    }
}

/// Reads one certificate.
///
/// # Errors
/// The text has none, or more than one.
pub fn describe(pem: &str) -> Result<Described, Unusable> {
    let mut all = describe_all(pem, 1)?;
    all.pop().ok_or(Unusable::Certificate)
}

/// Reads up to so many certificates, one behind the other.
///
/// # Errors
/// The text has something else, or more of them.
pub(crate) fn describe_all(pem: &str, most: usize) -> Result<Vec<Described>, Unusable> {
    let mut found = Vec::new();
    let mut rest = pem.as_bytes();
    while std::str::from_utf8(rest).is_ok_and(|rest| rest.contains("-----BEGIN")) {
        let (after, block) = parse_x509_pem(rest).map_err(|_| Unusable::Certificate)?;
        if block.label != "CERTIFICATE" || found.len() == most {
            return Err(Unusable::Certificate);
        }
        found.push(described(block.contents)?);
        rest = after;
    }
    Ok(found)
}

fn described(der: Vec<u8>) -> Result<Described, Unusable> {
    let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| Unusable::Certificate)?;
    if !rest.is_empty() {
        return Err(Unusable::Certificate);
    }
    let validity = certificate.validity();
    let constraints = certificate.basic_constraints().ok().flatten().map(|found| found.value);
    let usage = certificate.key_usage().ok().flatten().map(|found| found.value);
    let organisation = certificate.issuer().iter_organization().next();
    let fingerprint = Sha256::digest(&der).iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write;
        let _infallible = write!(text, "{byte:02x}");
        text
    });
    Ok(Described {
        not_before: validity.not_before.to_datetime(),
        not_after: validity.not_after.to_datetime(),
        issuer: certificate.issuer().to_string(),
        issuer_organisation: organisation.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned(),
        fingerprint,
        path_length: constraints.and_then(|found| found.path_len_constraint),
        may_sign: constraints.is_some_and(|found| found.ca) && usage.is_none_or(KeyUsage::key_cert_sign),
        der,
    })
}

/// Checks an authority that somebody brings, at this time.
///
/// # Errors
/// It cannot sign what clients would take.
pub fn check(certificate: &str, key: &str, now: OffsetDateTime) -> Result<Authority, Unusable> {
    let described = describe(certificate)?;
    if !described.may_sign {
        return Err(Unusable::NoAuthority);
    }
    if now >= described.not_after {
        return Err(Unusable::Expired);
    }
    if now < described.not_before {
        return Err(Unusable::NotYet);
    }
    let key = KeyPair::from_pem(key).map_err(|_| Unusable::Key)?;
    let kept = Zeroizing::new(key.serialize_pem());
    prove(&described, key)?;
    Ok(Authority { certificate: pem_of(&described.der), key: kept })
}

/// Signs a certificate and looks at it as a client does.
fn prove(authority: &Described, key: KeyPair) -> Result<(), Unusable> {
    let issuer = Issuer::from_ca_cert_pem(&pem_of(&authority.der), key).map_err(|_| Unusable::Name)?;
    let own = KeyPair::generate().map_err(|_| Unusable::Key)?;
    let signed = CertificateParams::new(["adit.invalid".to_owned()])
        .and_then(|params| params.signed_by(&own, &issuer))
        .map_err(|_| Unusable::Key)?;
    let read = |der| X509Certificate::from_der(der).map(|(_, read)| read).map_err(|_| Unusable::Name);
    let (signed, authority) = (read(signed.der())?, read(&authority.der)?);
    if signed.verify_signature(Some(authority.public_key())).is_err() {
        return Err(Unusable::OtherKey);
    }
    if signed.issuer().as_raw() == authority.subject().as_raw() { Ok(()) } else { Err(Unusable::Name) }
}

/// Feeds any bytes to the parsers of certificates.
pub(crate) fn fuzz(data: &[u8]) {
    for text in [String::from_utf8_lossy(data).into_owned(), pem_of(data)] {
        if let Ok(all) = describe_all(&text, 4) {
            let again: String = all.iter().map(|described| pem_of(described.der())).collect();
            assert_eq!(describe_all(&again, 4), Ok(all), "what is kept reads as what was sent");
        }
    }
}

/// A certificate as PEM, and nothing else that stood around it.
pub(crate) fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, DnType, IsCa, KeyUsagePurpose};
    use time::Duration;

    use super::*;

    fn params(change: impl FnOnce(&mut CertificateParams)) -> (String, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "Example & Sons");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(1));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key)
    }

    #[test]
    fn an_authority_is_taken_when_it_can_sign() {
        let now = OffsetDateTime::now_utc();
        let (pem, key) = params(|_| {});
        let taken = check(&format!("Bag Attributes\n{pem}"), &key.serialize_pem(), now).unwrap();
        assert_eq!(describe(&taken.certificate), describe(&pem));
        assert_eq!(describe(&pem).unwrap().issuer_organisation, "Example & Sons");
        for (change, expected) in [
            ((|of| of.is_ca = IsCa::ExplicitNoCa) as fn(&mut CertificateParams), Unusable::NoAuthority),
            (|of| of.is_ca = IsCa::NoCa, Unusable::NoAuthority),
            (|of| of.key_usages = vec![KeyUsagePurpose::DigitalSignature], Unusable::NoAuthority),
            (|of| of.not_after = of.not_before + Duration::minutes(1), Unusable::Expired),
            (|of| of.not_before = of.not_after - Duration::minutes(1), Unusable::NotYet),
        ] {
            let (pem, key) = params(change);
            assert_eq!(check(&pem, &key.serialize_pem(), now).unwrap_err(), expected);
        }
        let other = KeyPair::generate().unwrap().serialize_pem();
        assert_eq!(check(&pem, &other, now).unwrap_err(), Unusable::OtherKey);
        assert_eq!(check(&pem, &pem, now).unwrap_err(), Unusable::Key);
        assert_eq!(check(&(pem.clone() + &pem), &other, now).unwrap_err(), Unusable::Certificate);
        assert_eq!(check(&other, &other, now).unwrap_err(), Unusable::Certificate);
    }

    /// Made by `openssl req -x509`, good until 2126.
    #[test]
    fn authorities_of_other_makers_are_taken_with_keys_of_every_form() {
        let now = OffsetDateTime::now_utc();
        for (certificate, key, organisation) in [
            (include_str!("testdata/rsa.pem"), include_str!("testdata/rsa-key.pem"), "Example GmbH"),
            (include_str!("testdata/rsa.pem"), include_str!("testdata/rsa-pkcs1-key.pem"), "Example GmbH"),
            (include_str!("testdata/ec-plain.pem"), include_str!("testdata/ec-key.pem"), "Example"),
        ] {
            let taken = check(certificate, key, now).unwrap();
            assert_eq!(describe(&taken.certificate).unwrap().issuer_organisation, organisation);
            // What is kept of the key is the same key.
            check(&taken.certificate, &taken.key, now).unwrap();
        }
        // Of two units only one would be written.
        let (two_units, key) = (include_str!("testdata/ec.pem"), include_str!("testdata/ec-key.pem"));
        assert_eq!(check(two_units, key, now).unwrap_err(), Unusable::Name);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_certificate_or_not(text in ".{0,200}", der: Vec<u8>, cut in 0usize..400) {
            fuzz(&der);
            fuzz(text.as_bytes());
            proptest::prop_assert!(describe(&text).is_err());
            proptest::prop_assert!(describe(&pem_of(&der)).is_err());
            let (pem, _) = params(|_| {});
            let good = describe(&pem).unwrap();
            let mut damaged = good.der().to_vec();
            damaged.truncate(cut);
            // What is read of a damaged certificate is never taken for more than it is.
            if let Ok(read) = describe(&pem_of(&damaged)) {
                proptest::prop_assert_eq!(read.der(), good.der());
            }
        }
    }
}
