//! What an action needs to know (contract D, 8.7), in both generations' spelling.

use serde_json::{Map, Value as Json, json};

use crate::schema::{Attribute, Kind, Same, Spelling};

const fn flag(name: &'static str, about: &'static str) -> Attribute {
    Attribute::optional(name, Kind::Flag, about)
}

const fn text(name: &'static str, about: &'static str) -> Attribute {
    Attribute::optional(name, Kind::Text, about)
}

const fn number(name: &'static str, about: &'static str) -> Attribute {
    Attribute::optional(name, Kind::Number, about)
}

/// The settings that both generations have.
const OVERRIDE_IPS: Attribute =
    Attribute::optional("override_ips", Kind::Texts, "The addresses that a name is made to have.");
const OVERRIDE_HOST: Attribute = text("override_host", "The name that a name is made to lead to.");
const NO_DNSSEC: Attribute =
    flag("insecure_disable_dnssec_validation", "Whether answers pass without valid signatures.");
const BLOCK_PAGE: Attribute = flag("block_page_enabled", "Whether who is blocked is shown a page.");
const IP_CATEGORIES: Attribute = flag("ip_categories", "Whether categories are also looked up by address.");
const CHILD_BYPASS: Attribute = flag("allow_child_bypass", "Kept, without effect.");
const PARENT_BYPASS: Attribute = flag("bypass_parent_rule", "Kept, without effect.");
const ADD_HEADERS: Attribute = Attribute::optional(
    "add_headers",
    Kind::TextMap,
    "Headers that requests get: values by name, several separated by commas.",
)
.spelt(Spelling::Commas);

const L4: &[Attribute] =
    &[text("ip", "The address to dial instead."), number("port", "The port to dial instead.")];
const SSH: &[Attribute] = &[flag("command_logging", "Whether commands are recorded.")];
const LOG: &[Attribute] = &[flag("enabled", "Whether it is on.")];
const EGRESS: &[Attribute] = &[
    text("ipv4", "The IPv4 address to leave from."),
    text("ipv4_fallback", "Another, if that fails."),
    text("ipv6", "The IPv6 network to leave from."),
];
const SESSION: &[Attribute] = &[
    flag("enforce", "Whether a session is asked for."),
    text("duration", "How fresh it must be, such as `1h30m`.").same(Same::Duration),
];
const UNTRUSTED: &[Attribute] = &[text("action", "`pass_through`, `block` or `error`.")];

/// 2022's blocks.
pub(super) const OLD: &[Attribute] = &[
    BLOCK_PAGE,
    text("block_page_reason", "What the page says.").field("block_reason"),
    OVERRIDE_IPS,
    OVERRIDE_HOST,
    Attribute::optional("l4override", Kind::Block(L4), "Where to dial instead."),
    Attribute::optional(
        "biso_admin_controls",
        Kind::Block(ISOLATION_OLD),
        "What an isolated browser may do.",
    ),
    Attribute::optional("check_session", Kind::Block(SESSION), "How fresh a person's session must be."),
    ADD_HEADERS,
    NO_DNSSEC,
    Attribute::optional("egress", Kind::Block(EGRESS), "Where to leave from."),
    Attribute::optional(
        "untrusted_cert",
        Kind::Block(UNTRUSTED),
        "What happens if an origin's certificate is wrong.",
    ),
    Attribute::optional("payload_log", Kind::Block(LOG), "Whether what matched is recorded."),
    IP_CATEGORIES,
    CHILD_BYPASS,
    PARENT_BYPASS,
    Attribute::optional("audit_ssh", Kind::Block(SSH), "What is recorded of SSH."),
    Attribute::optional("notification_settings", Kind::Block(NOTIFICATION_OLD), "What a person is told."),
];

const ISOLATION_OLD: &[Attribute] = &[
    flag("disable_printing", "No printing.").field("dp"),
    flag("disable_copy_paste", "No copying and pasting.").field("dcp"),
    flag("disable_download", "No downloads.").field("dd"),
    flag("disable_upload", "No uploads.").field("du"),
    flag("disable_keyboard", "No keyboard.").field("dk"),
];

const NOTIFICATION_OLD: &[Attribute] = &[
    flag("enabled", "Whether a person is told."),
    text("message", "What is said.").field("msg"),
    text("support_url", "Where to read more."),
];

/// Today's attributes.
pub(super) const NEW: &[Attribute] = &[
    BLOCK_PAGE,
    text("block_reason", "What the page says."),
    Attribute::optional("block_page", Kind::Object(PAGE), "A page elsewhere."),
    Attribute::optional("notification_settings", Kind::Object(NOTIFICATION), "What a person is told."),
    OVERRIDE_IPS,
    OVERRIDE_HOST,
    NO_DNSSEC,
    IP_CATEGORIES,
    flag("ip_indicator_feeds", "Whether feeds of addresses are looked at."),
    flag("ignore_cname_category_matches", "Whether aliases' categories are left out."),
    CHILD_BYPASS,
    PARENT_BYPASS,
    Attribute::optional("l4override", Kind::Object(L4), "Where to dial instead."),
    Attribute::optional("audit_ssh", Kind::Object(SSH), "What is recorded of SSH."),
    Attribute::optional("check_session", Kind::Object(SESSION), "How fresh a person's session must be."),
    Attribute::optional("add_headers", Kind::TextsMap, "Headers that requests get: lists of values by name."),
    Attribute::optional("set_headers", Kind::TextsMap, "Headers that requests get in place of their own."),
    Attribute::optional("delete_headers", Kind::Texts, "Headers that requests lose."),
    Attribute::optional(
        "untrusted_cert",
        Kind::Object(UNTRUSTED),
        "What happens if an origin's certificate is wrong.",
    ),
    Attribute::optional("payload_log", Kind::Object(LOG), "Whether what matched is recorded."),
    Attribute::optional("redirect", Kind::Object(REDIRECT), "Where a request is sent instead."),
    Attribute::optional("quarantine", Kind::Object(QUARANTINE), "Which files are opened elsewhere first."),
    Attribute::optional("forensic_copy", Kind::Object(LOG), "Whether a copy is kept."),
    Attribute::optional("biso_admin_controls", Kind::Object(ISOLATION), "What an isolated browser may do."),
    Attribute::optional("egress", Kind::Object(EGRESS), "Where to leave from."),
    Attribute::optional("dns_resolvers", Kind::Object(RESOLVERS), "Who is asked for names."),
    flag("resolve_dns_through_cloudflare", "Whether the edge's own resolver is asked."),
    Attribute::optional("resolve_dns_internally", Kind::Object(INTERNALLY), "Which view of names is asked."),
];

const PAGE: &[Attribute] = &[
    Attribute::required("target_uri", Kind::Text, "Its URL."),
    flag("include_context", "Whether it is told what was blocked."),
];
const NOTIFICATION: &[Attribute] = &[
    flag("enabled", "Whether a person is told."),
    text("msg", "What is said."),
    text("support_url", "Where to read more."),
    flag("include_context", "Whether that page is told what was blocked."),
];
const REDIRECT: &[Attribute] = &[
    Attribute::required("target_uri", Kind::Text, "Its URL."),
    flag("include_context", "Whether it is told what was asked for."),
    flag("preserve_path_and_query", "Whether path and query are kept."),
];
const QUARANTINE: &[Attribute] = &[Attribute::optional("file_types", Kind::Texts, "Their types.")];
const ISOLATION: &[Attribute] = &[
    text("version", "`v1` or `v2`: which of the others count.").absent(r#""v1""#),
    flag("dp", "v1: no printing."),
    flag("dcp", "v1: no copying and pasting."),
    flag("dd", "v1: no downloads."),
    flag("dk", "v1: no keyboard."),
    flag("du", "v1: no uploads."),
    text("copy", "v2: `enabled`, `disabled` or `remote_only`."),
    text("paste", "v2: `enabled`, `disabled` or `remote_only`."),
    text("download", "v2: `enabled`, `disabled` or `remote_only`."),
    text("upload", "v2: `enabled` or `disabled`."),
    text("printing", "v2: `enabled` or `disabled`."),
    text("keyboard", "v2: `enabled` or `disabled`."),
];
const RESOLVER: &[Attribute] = &[
    Attribute::required("ip", Kind::Text, "Its address."),
    number("port", "Its port.").absent("53"),
    text("vnet_id", "The virtual network it is in."),
    flag("route_through_private_network", "Whether it is reached through a tunnel."),
];
const RESOLVERS: &[Attribute] = &[
    Attribute::optional("ipv4", Kind::Objects(RESOLVER), "By IPv4."),
    Attribute::optional("ipv6", Kind::Objects(RESOLVER), "By IPv6."),
];
const INTERNALLY: &[Attribute] =
    &[text("view_id", "The view."), text("fallback", "`none` or `public_dns`, for what it does not know.")];

/// The settings that 2022's client always writes, as it writes them unset.
pub(super) fn zero() -> Map<String, Json> {
    let zero = json!({
        "override_ips": null,
        "block_reason": "",
        "override_host": "",
        "biso_admin_controls": null,
        "l4override": null,
        "add_headers": null,
        "check_session": null,
        "block_page_enabled": false,
        "insecure_disable_dnssec_validation": false,
    });
    zero.as_object().cloned().unwrap_or_default()
}
