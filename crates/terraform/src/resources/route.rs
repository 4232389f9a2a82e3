//! Routes (contract D, 6.4).

use crate::schema::{ANY, Attribute, Body, Changes, Default, Import, Kind, Resource, Same, Step, Take, When};

const NETWORK: Attribute =
    Attribute::required("network", Kind::Text, "The addresses: a network or one address.")
        .same(Same::Network);
const TUNNEL: Attribute = Attribute::required("tunnel_id", Kind::Text, "The tunnel that leads there.");
const COMMENT: &str = "A note.";
const VIRTUAL_NETWORK: &str = "The virtual network it is in; the default one if left out.";

/// 2022's route is known by its network. The id in its state is ours alone: other providers put a checksum there.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_tunnel_route"],
    about: "A network that a tunnel leads to.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        TUNNEL,
        NETWORK.replacing(),
        Attribute::optional("comment", Kind::Text, COMMENT).unset(r#""""#),
        Attribute::optional("virtual_network_id", Kind::Text, VIRTUAL_NETWORK).replacing().absent(ANY),
    ],
    import: Import::Network,
    create: &[
        Step::post(
            "accounts/{account_id}/teamnet/routes/network/{network}",
            Body::Only(&["tunnel_id", "comment", "virtual_network_id"]),
        ),
        Step::get(FIND).take(Take::Match),
    ],
    read: &[Step::get(FIND).take(Take::Match)],
    update: &[
        Step::patch(
            "accounts/{account_id}/teamnet/routes/network/{network}",
            Body::Only(&["network", "tunnel_id", "comment", "virtual_network_id"]),
        ),
        Step::get(FIND).take(Take::Match),
    ],
    delete: &[Step::delete(
        "accounts/{account_id}/teamnet/routes/network/{network}?virtual_network_id={virtual_network_id}",
    )],
    adopt: &[],
};

/// Both bounds the same: exactly this network. What is not set is left out of a query.
const FIND: &str = "accounts/{account_id}/teamnet/routes?is_deleted=false&network_subset={network}\
&network_superset={network}&virtual_network_id={virtual_network_id}";

/// Today's route.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_tunnel_cloudflared_route", "adit_route"],
    about: "A network that a tunnel leads to.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NETWORK,
        TUNNEL,
        Attribute::defaulted("comment", Kind::Text, Default::Text(""), COMMENT),
        Attribute::kept("virtual_network_id", Kind::Text, VIRTUAL_NETWORK),
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("deleted_at", Kind::Text, Changes::Never, "When it was deleted: never, here."),
    ],
    import: Import::Id,
    create: &[Step::post("accounts/{account_id}/teamnet/routes", Body::All)],
    read: &[
        Step::get(FIND).take(Take::Match).when(When::ForeignId),
        Step::get("accounts/{account_id}/teamnet/routes/{id}").when(When::OwnId),
    ],
    update: &[Step::patch("accounts/{account_id}/teamnet/routes/{id}", Body::Changed)],
    delete: &[Step::delete("accounts/{account_id}/teamnet/routes/{id}")],
    adopt: &[],
};
