use super::images::{Row, select_image};
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::model::{AccountId, Image, ImageId, OrgId, Resource, Timestamp};

statements! {
    CURRENT = "SELECT number, image_id FROM avatars WHERE org_id = $1 AND service = $2 AND resource = $3 \
        ORDER BY number DESC LIMIT 1";
    CURRENT_IMAGE = select_image!("JOIN avatars a ON a.image_id = i.id WHERE a.org_id = $1 AND a.service = $2 AND a.resource = $3 \
        AND a.number = (SELECT MAX(number) FROM avatars WHERE org_id = $1 AND service = $2 AND resource = $3) \
        AND v.number = i.latest_version AND v.deleted_us IS NULL");
    VERSION = select_image!("JOIN avatars a ON a.image_id = i.id WHERE a.org_id = $1 AND a.service = $2 AND a.resource = $3 \
        AND a.number = $4 AND v.number = i.latest_version AND v.deleted_us IS NULL");
    LOCK = "SELECT $1", postgres: "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
    APPEND = "INSERT INTO avatars (org_id, service, resource, number, image_id, created_by, created_us) \
        VALUES ($1, $2, $3, COALESCE((SELECT MAX(number) FROM avatars WHERE org_id = $1 AND service = $2 AND resource = $3), 0) + 1, \
        $4, $5, $6) RETURNING number";
}

/// The image of the present avatar, or of the one of a number; none where it is the default.
pub(crate) async fn find(
    database: &Database,
    org: OrgId,
    resource: &Resource,
    number: Option<i64>,
) -> Result<Option<Image>, Error> {
    let statement = query(if number.is_some() { VERSION } else { CURRENT_IMAGE })
        .bind(org.0)
        .bind(resource.service.as_str())
        .bind(resource.id());
    let statement = if let Some(number) = number { statement.bind(number) } else { statement };
    let row: Option<Row> = statement.fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// Until the transaction ends, nobody else gives this resource an avatar: others wait. SQLite has one writer.
pub(crate) async fn lock(connection: &mut Connection, org: OrgId, resource: &Resource) -> Result<(), Error> {
    query(LOCK).bind(format!("avatars of {} {resource}", org.0)).execute(connection).await.map(|_| ())
}

/// Makes an image the resource's avatar, or with none the default. Gives the avatar's number; none when it is the default already.
pub(crate) async fn append(
    connection: &mut Connection,
    org: OrgId,
    resource: &Resource,
    image: Option<ImageId>,
    by: AccountId,
    now: Timestamp,
) -> Result<Option<i64>, Error> {
    let current: Option<(i64, Option<String>)> = query(CURRENT)
        .bind(org.0)
        .bind(resource.service.as_str())
        .bind(resource.id().to_owned())
        .fetch_optional(&mut *connection)
        .await?;
    if image.is_none() && current.is_none_or(|(_, image)| image.is_none()) {
        return Ok(None);
    }
    query(APPEND)
        .bind(org.0)
        .bind(resource.service.as_str())
        .bind(resource.id().to_owned())
        .bind(image.map(|image| image.to_string()))
        .bind(by.0.to_string())
        .bind(now.0)
        .fetch_value(connection)
        .await
        .map(Some)
}
