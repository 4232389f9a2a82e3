//! What an edge node of its own opens TLS with: an authority below the account's, whose key is made on the node and stays
//! there (design, section 4).
//!
//! The node's key to sign with is another than the one by which it is known. What holds: only a key that the known one has
//! endorsed is signed, so that who can write to the database and no more gets nothing; what is signed is good for a week,
//! and has no authority below it.

use adit_model::{AccountId, NodeKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SubjectPublicKeyInfo,
};
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{Authority, Unusable, describe};

/// How long an authority of a node is good, and how long before its end it gets another.
const VALIDITY: Duration = Duration::days(7);
/// See [`VALIDITY`].
pub const RENEWED_BEFORE: Duration = Duration::days(5);
/// Longest endorsement, in bytes.
const MAX_ENDORSEMENT: usize = 4 << 10;
/// What an endorsed key is called: nothing else that a node's key signs is.
const NAME: &str = "adit inspection key of a node";

/// A node cannot sign for an account.
#[derive(Debug, thiserror::Error)]
pub enum NodeAuthorityError {
    /// The account's authority may have none below it.
    #[error(
        "the account's certificate may sign no authority (path length 0), so that TLS is opened on the node of adit up only: make \
         another certificate, activate it and choose it"
    )]
    NoneBelow,
    /// It is past its end.
    #[error("the account's certificate is past its end")]
    Expired,
    /// It cannot be read.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The cryptography failed.
    #[error("a certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
}

/// A key that the node's own has endorsed.
#[derive(Debug)]
pub struct EndorsedKey(SubjectPublicKeyInfo);

/// Endorses a key to sign with by the node's own key, both as PEM.
///
/// # Errors
/// One of them is damaged.
pub fn endorse(own: &str, key: &str) -> Result<String, rcgen::Error> {
    let (own, key) = (KeyPair::from_pem(own)?, KeyPair::from_pem(key)?);
    let public = own.subject_public_key_info();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, NAME);
    let issuer = Issuer::new(params.clone(), own);
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(format!("{}.{}", STANDARD.encode(public), STANDARD.encode(certificate.der())))
}

/// The key of an endorsement, if this node's own key has made it.
pub fn endorsed(endorsement: &str, own: NodeKey) -> Option<EndorsedKey> {
    let (public, certificate) =
        (endorsement.len() <= MAX_ENDORSEMENT).then(|| endorsement.split_once('.'))??;
    let (public, certificate) = (STANDARD.decode(public).ok()?, STANDARD.decode(certificate).ok()?);
    if NodeKey::of_public_key(&public) != own {
        return None;
    }
    let (_, public) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&public).ok()?;
    let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
    certificate.verify_signature(Some(&public)).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let key = SubjectPublicKeyInfo::from_der(certificate.public_key().raw).ok()?;
    (name == NAME).then_some(EndorsedKey(key))
}

/// Signs an authority for a node: its certificate as PEM, and until when it is good.
///
/// # Errors
/// See [`NodeAuthorityError`].
pub fn sign_node(
    authority: &Authority,
    account: AccountId,
    node: &str,
    key: &EndorsedKey,
) -> Result<(String, OffsetDateTime), NodeAuthorityError> {
    let described = describe(&authority.certificate)?;
    if described.path_length == Some(0) {
        return Err(NodeAuthorityError::NoneBelow);
    }
    let now = OffsetDateTime::now_utc();
    if now >= described.not_after {
        return Err(NodeAuthorityError::Expired);
    }
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, format!("adit account {account}"));
    params.distinguished_name.push(DnType::CommonName, format!("adit inspection on {node}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let end = (now + VALIDITY).min(described.not_after);
    (params.not_before, params.not_after) = (now - Duration::hours(1), end);
    Ok((params.signed_by(&key.0, &issuer)?.pem(), end))
}

#[cfg(test)]
mod tests {
    use adit_model::AccountId;

    use super::*;
    use crate::inspection::make;

    fn key() -> KeyPair {
        KeyPair::generate().unwrap()
    }

    #[test]
    fn only_a_key_that_the_node_endorsed_is_signed() {
        let (own, signing, other) = (key(), key(), key());
        let known = NodeKey::of_public_key(&own.subject_public_key_info());
        let endorsement = endorse(&own.serialize_pem(), &signing.serialize_pem()).unwrap();
        assert_eq!(endorsed(&endorsement, known).unwrap().0.der_bytes(), signing.der_bytes());
        let strangers = endorse(&other.serialize_pem(), &signing.serialize_pem()).unwrap();
        assert!(endorsed(&strangers, known).is_none());
        // The known key beside what another has signed.
        let (public, _) = endorsement.split_once('.').unwrap();
        let (_, certificate) = strangers.split_once('.').unwrap();
        assert!(endorsed(&format!("{public}.{certificate}"), known).is_none());
        // Another certificate of the known key.
        let params = CertificateParams::new(vec!["edge.example.com".to_owned()]).unwrap();
        let certificate = params.self_signed(&own).unwrap();
        let certificate = STANDARD.encode(certificate.der());
        assert!(endorsed(&format!("{public}.{certificate}"), known).is_none());
    }

    #[test]
    fn an_authority_signs_one_below_it_for_a_week_and_not_beyond_its_own_end() {
        let account = AccountId::from_bytes([7; 16]);
        let (own, signing) = (key(), key());
        let known = NodeKey::of_public_key(&own.subject_public_key_info());
        let endorsement = endorse(&own.serialize_pem(), &signing.serialize_pem()).unwrap();
        let signed = |authority: &Authority| {
            let key = endorsed(&endorsement, known).unwrap();
            sign_node(authority, account, "edge02", &key)
        };
        let (pem, end) = signed(&make(account, 30).unwrap()).unwrap();
        let below = describe(&pem).unwrap();
        assert!(below.may_sign && below.path_length == Some(0));
        assert!((end - OffsetDateTime::now_utc() - VALIDITY).abs() < Duration::minutes(1));
        let (pem, end) = signed(&make(account, 1).unwrap()).unwrap();
        assert!(end < OffsetDateTime::now_utc() + Duration::days(1));
        let none_below = Authority { certificate: pem, key: signing.serialize_pem().into() };
        assert!(matches!(signed(&none_below), Err(NodeAuthorityError::NoneBelow)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_endorsement_or_not(text in "[A-Za-z0-9+/=.]{0,200}", bytes: Vec<u8>) {
            let encoded = STANDARD.encode(&bytes);
            let known = NodeKey::of_public_key(&bytes);
            proptest::prop_assert!(endorsed(&text, known).is_none());
            let both = format!("{encoded}.{encoded}");
            proptest::prop_assert!(endorsed(&both, known).is_none());
        }
    }
}
