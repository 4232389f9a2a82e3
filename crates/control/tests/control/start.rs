//! What the first start makes, and later ones keep.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn the_files_of_the_first_start_are_as_designed() {
    let api = Api::new().await;
    assert_eq!(api.token.len(), 40);
    assert!(api.token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
    let account = std::fs::read_to_string(api.dir.path().join("account-id")).unwrap();
    assert_eq!(account.trim(), api.control.account().to_string());
    let mode = std::fs::metadata(api.dir.path().join("admin-token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let state = api.control.store().state().await.unwrap();
    assert_eq!(state.changes.len(), 2, "the default virtual network and location: {state:?}");
}

#[tokio::test]
async fn a_later_start_changes_nothing_and_a_revoked_token_stays_revoked() {
    let Api { control, router, token, dir } = Api::new().await;
    let files = || {
        ["account-id", "admin-token", "seal.key"].map(|name| std::fs::read(dir.path().join(name)).unwrap())
    };
    let (before, account) = (files(), control.account());
    let again = async |control: Control, router: Router| {
        control.store().close().await;
        drop((control, router));
        let store = Store::open(dir.path()).await.unwrap();
        let control = Control::new(store, Settings::default()).await.unwrap();
        let router = api::router(control.clone());
        assert_eq!(control.account(), account);
        assert_eq!(files(), before);
        (control, router)
    };
    let (control, router) = again(control, router).await;
    let ask = async |router: &Router, method: Method, path: &str| {
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        answer(router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
    };
    let verify = "/client/v4/user/tokens/verify";
    let id = ask(&router, Method::GET, verify).await.text("/result/id");
    let path = format!("/client/v4/accounts/{account}/tokens/{id}");
    ask(&router, Method::DELETE, &path).await.result();
    let (_control, router) = again(control, router).await;
    ask(&router, Method::GET, verify).await.refused(401, 1000, "Invalid API Token");
}
