//! Hostname routes (contract D, 6.6), which only today's provider knows.

use crate::schema::{Attribute, Body, Changes, Default, Import, Kind, Resource, Step};

/// A private name.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_network_hostname_route", "adit_hostname_route"],
    about: "A private name, or with a leading *. all names below one, that a tunnel leads to.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        Attribute::required("hostname", Kind::Text, "The name, or *. and the name above."),
        Attribute::required("tunnel_id", Kind::Text, "The tunnel that leads there."),
        Attribute::defaulted("comment", Kind::Text, Default::Text(""), "A note."),
        Attribute::computed("tunnel_name", Kind::Text, Changes::With(&["tunnel_id"]), "The tunnel's name."),
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("deleted_at", Kind::Text, Changes::Never, "When it was deleted: never, here."),
    ],
    import: Import::Id,
    create: &[Step::post("accounts/{account_id}/zerotrust/routes/hostname", Body::All)],
    read: &[Step::get("accounts/{account_id}/zerotrust/routes/hostname/{id}")],
    update: &[Step::patch("accounts/{account_id}/zerotrust/routes/hostname/{id}", Body::Changed)],
    delete: &[Step::delete("accounts/{account_id}/zerotrust/routes/hostname/{id}")],
    adopt: &[],
};
