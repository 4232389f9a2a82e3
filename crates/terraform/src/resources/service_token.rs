//! Service tokens (contract D, 10.9).

use crate::schema::{Attribute, Body, Changes, Default, Import, Kind, Resource, Same, Step};

const NAME: Attribute = Attribute::required("name", Kind::Text, "A name.");
const DURATION: Attribute = Attribute::defaulted(
    "duration",
    Kind::Text,
    Default::Text("8760h"),
    "How long it is good for, such as `8760h`; or `forever`.",
)
.same(Same::Duration);
const CLIENT_ID: Attribute =
    Attribute::computed("client_id", Kind::Text, Changes::Never, "What a client sends as its id.");
const EXPIRES: Attribute =
    Attribute::computed("expires_at", Kind::Text, Changes::Always, "Until when it is good.");
const SECRET: &str = "What a client sends as its secret. The API tells it only when it is made.";

const CREATE: &[Step] = &[Step::post("accounts/{account_id}/access/service_tokens", Body::All)];
const READ: &[Step] = &[Step::get("accounts/{account_id}/access/service_tokens/{id}")];
const UPDATE: &[Step] = &[Step::put("accounts/{account_id}/access/service_tokens/{id}", Body::All)];
const DELETE: &[Step] = &[Step::delete("accounts/{account_id}/access/service_tokens/{id}")];

/// 2022's service token.
pub(super) static OLD: Resource = Resource {
    names: &["cloudflare_access_service_token"],
    about: "A credential for programs: for enrolling devices without a person.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        DURATION,
        CLIENT_ID,
        Attribute::computed("client_secret", Kind::Text, Changes::Never, SECRET).sensitive(),
        EXPIRES,
    ],
    import: Import::Id,
    create: CREATE,
    read: READ,
    update: UPDATE,
    delete: DELETE,
    adopt: &[],
};

/// Today's service token.
pub(super) static NEW: Resource = Resource {
    names: &["cloudflare_zero_trust_access_service_token", "adit_service_token"],
    about: "A credential for programs: for enrolling devices without a person.",
    attributes: &[
        Attribute::id(),
        Attribute::account(),
        NAME,
        DURATION,
        Attribute::defaulted(
            "client_secret_version",
            Kind::Number,
            Default::Number(1),
            "Raise it to get another secret.",
        ),
        Attribute::optional(
            "previous_client_secret_expires_at",
            Kind::Text,
            "Until when the secret before the last stays good.",
        )
        .same(Same::Time),
        CLIENT_ID,
        Attribute::computed("client_secret", Kind::Text, Changes::With(&["client_secret_version"]), SECRET)
            .sensitive(),
        EXPIRES,
        Attribute::computed("created_at", Kind::Text, Changes::Never, "When it was made."),
        Attribute::computed("updated_at", Kind::Text, Changes::Always, "When it was last changed."),
    ],
    import: Import::Id,
    create: CREATE,
    read: READ,
    update: UPDATE,
    delete: DELETE,
    adopt: &[],
};
