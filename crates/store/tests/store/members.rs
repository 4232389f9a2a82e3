//! Members of an account, and what is changed of the account itself.

use adit_store::{AccountEdit, AccountUpdateError, FindError, MemberCreateError};
use serde_json::json;

use super::*;

#[tokio::test]
async fn an_address_belongs_once_to_an_account_and_may_be_in_several() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let other = AccountId::from_bytes([0xcd; 16]);
    let second = Bootstrap {
        account: other,
        name: "second".into(),
        token_hash: SecretHash::of(b"second"),
        token_policies: json!([]),
    };
    store.account_create(&Actor::system(), &second).await.unwrap();
    let add = async |account, email: &str| {
        store.member_create(&Actor::system(), account, email.into(), json!({ "roles": ["x"] })).await
    };
    let ann = add(ACCOUNT, "Ann@example.com").await.unwrap().value;
    assert!(matches!(add(ACCOUNT, "ann@EXAMPLE.com").await, Err(MemberCreateError::EmailTaken)));
    add(other, "ann@example.com").await.unwrap();
    let changed = store.member_update(&Actor::system(), ACCOUNT, ann.id, json!({ "policies": [] })).await;
    assert_eq!(changed.unwrap().value.grants, json!({ "policies": [] }));
    assert_eq!(store.member_fetch(ACCOUNT, ann.id).await.unwrap().email, "Ann@example.com");
    assert!(matches!(store.member_fetch(other, ann.id).await, Err(FindError::NotFound)));
    let gone = store.member_delete(&Actor::system(), other, ann.id).await;
    assert!(matches!(gone, Err(FindError::NotFound)));
    store.member_delete(&Actor::system(), ACCOUNT, ann.id).await.unwrap();
    assert_eq!(store.member_list(ACCOUNT, Window::ALL).await.unwrap().total, 0);
    assert_eq!(store.member_list(other, Window::ALL).await.unwrap().total, 1);
    store.account_delete(&Actor::system(), other, Cascade::Delete).await.unwrap();
    add(ACCOUNT, "ann@example.com").await.unwrap();
}

#[tokio::test]
async fn an_account_takes_no_name_of_another_and_keeps_what_is_not_said() {
    let Some(place) = Place::new() else { return };
    let store = open(&place).await;
    let second = Bootstrap {
        account: AccountId::from_bytes([0xcd; 16]),
        name: "second".into(),
        token_hash: SecretHash::of(b"second"),
        token_policies: json!([]),
    };
    store.account_create(&Actor::system(), &second).await.unwrap();
    let put = async |name: &str, contact: Option<Option<&str>>| {
        let contact = contact.map(|contact| contact.map(str::to_owned));
        let edit = AccountEdit { name: name.into(), abuse_contact_email: contact };
        store.account_update(&Actor::system(), ACCOUNT, edit).await.map(|done| done.value)
    };
    let set = put("renamed", Some(Some("abuse@example.com"))).await.unwrap();
    assert_eq!(put("renamed", None).await.unwrap(), set);
    assert!(matches!(put("second", None).await, Err(AccountUpdateError::NameTaken)));
    assert_eq!(put("home", Some(None)).await.unwrap().abuse_contact_email, None);
    let nobody = AccountEdit { name: "x".into(), abuse_contact_email: None };
    let nobody = store.account_update(&Actor::system(), AccountId::from_bytes([1; 16]), nobody).await;
    assert!(matches!(nobody, Err(AccountUpdateError::NotFound)));
}
