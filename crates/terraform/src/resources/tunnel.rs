//! Tunnels (contract D, 6.2).

use crate::schema::{Attribute, Body, Changes, Default, Import, Kind, Resource, Step, Take};

const NAME: Attribute =
    Attribute::required("name", Kind::Text, "A name, unique among the account's tunnels.");
const SECRET: &str =
    "Base64 of at least 32 bytes, by which connectors prove themselves; made up if left out.";
const SOURCE: &str =
    "Whether connectors have their own configuration (`local`) or get it from here (`cloudflare`).";

/// 2022's tunnel. Its token is read each time, and tells the secret too.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_argo_tunnel", "cloudflare_tunnel"],
    about: "A tunnel that connectors serve.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME.replacing(),
        Attribute::required("secret", Kind::Text, SECRET).field("tunnel_secret").replacing().sensitive(),
        Attribute::kept("config_src", Kind::Text, SOURCE).replacing(),
        Attribute::computed(
            "cname",
            Kind::Text,
            Changes::Never,
            "The name that public host names would lead to.",
        ),
        Attribute::computed("tunnel_token", Kind::Text, Changes::Never, "What `tunnel run --token` takes.")
            .sensitive(),
    ],
    import: Import::Id,
    create: &[
        Step::post("accounts/{account_id}/cfd_tunnel", Body::All),
        Step::get("accounts/{account_id}/cfd_tunnel/{id}"),
        Step::get("accounts/{account_id}/cfd_tunnel/{id}/token").take(Take::Token),
    ],
    read: &[
        Step::get("accounts/{account_id}/cfd_tunnel/{id}"),
        Step::get("accounts/{account_id}/cfd_tunnel/{id}/token").take(Take::Token),
    ],
    update: &[],
    delete: &[
        Step::delete("accounts/{account_id}/cfd_tunnel/{id}/connections"),
        Step::delete("accounts/{account_id}/cfd_tunnel/{id}"),
    ],
    adopt: &[],
};

/// Today's tunnel.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_tunnel_cloudflared", "adit_tunnel"],
    about: "A tunnel that connectors serve.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        Attribute::kept("tunnel_secret", Kind::Text, SECRET).sensitive(),
        Attribute::defaulted("config_src", Kind::Text, Default::Text("local"), SOURCE).replacing(),
        Attribute::computed("account_tag", Kind::Text, Changes::Never, "The account."),
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("deleted_at", Kind::Text, Changes::Never, "When it was deleted: never, here."),
        Attribute::computed("conns_active_at", Kind::Text, Changes::Always, "Since when it has connections."),
        Attribute::computed("conns_inactive_at", Kind::Text, Changes::Always, "Since when it has none."),
        Attribute::computed(
            "status",
            Kind::Text,
            Changes::Always,
            "`inactive`, `healthy`, `degraded` or `down`.",
        ),
        Attribute::computed(
            "remote_config",
            Kind::Flag,
            Changes::Never,
            "Whether its configuration is kept here.",
        ),
        Attribute::computed("tun_type", Kind::Text, Changes::Never, "`cfd_tunnel`."),
    ],
    import: Import::Id,
    create: &[Step::post("accounts/{account_id}/cfd_tunnel", Body::All)],
    read: &[Step::get("accounts/{account_id}/cfd_tunnel/{id}")],
    update: &[Step::patch("accounts/{account_id}/cfd_tunnel/{id}", Body::Changed)],
    delete: &[Step::delete("accounts/{account_id}/cfd_tunnel/{id}")],
    adopt: &[Step::get("accounts/{account_id}/cfd_tunnel/{id}/token").take(Take::Token)],
};
