use std::collections::HashSet;

use imagewell_imaging::transform::Crop;
use imagewell_imaging::{Facts, Format, Orientation};

use super::query::{Query, Sql, columns, query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{
    AccountId, Acl, ActionKey, AppKey, Attribution, BlobKey, Digest, FileName, Image, ImageId, Namespace, OrgId, State,
    Timestamp, Version,
};

/// As many as `BLOBS_KNOWN` has places for.
const KEYS_AT_ONCE: usize = 32;

/// An image with one of its versions; what stands behind says which.
macro_rules! select_image {
    ($rest:literal) => {
        concat!(
            "SELECT i.id, i.org_id, i.owner_id, i.namespace, i.name, i.app_key, i.permission, i.acl, i.state, i.crop_x, i.crop_y, \
             i.crop_width, i.crop_height, i.focus_x, i.focus_y, i.latest_version, i.created_us, v.number, v.blob_key, v.size_bytes, v.digest, v.content_type, v.file_name, v.format, v.width, v.height, \
             v.frames, v.orientation, v.look, v.created_by, v.attribution_entity_type, v.attribution_code, \
             v.created_us AS version_created_us FROM images i JOIN versions v ON v.image_id = i.id ",
            $rest
        )
    };
}
pub(super) use select_image;

/// A version of the image that the first value names.
macro_rules! into_versions {
    ($values:literal) => {
        concat!(
            "INSERT INTO versions (image_id, number, blob_key, size_bytes, digest, content_type, file_name, format, width, height, \
             frames, orientation, created_by, attribution_entity_type, attribution_code, created_us) VALUES ",
            $values
        )
    };
}

macro_rules! insert_image {
    () => {
        "INSERT INTO images (id, org_id, owner_id, namespace, app_key, permission, state, latest_version, created_us) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
    };
}

/// The version that comes with [`insert_image`].
macro_rules! insert_first_version {
    () => {
        into_versions!("($1, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)")
    };
}

statements! {
    /// Both at once: a statement more is a turn more of the thread that SQLite runs on, or a round trip more to PostgreSQL. The former
    /// can't change rows in a common table expression, the latter can't run two statements with values.
    INSERT_IMAGE_WITH_VERSION = concat!(insert_image!(), "; ", insert_first_version!()),
        postgres: concat!("WITH image AS (", insert_image!(), ") ", insert_first_version!());
    INSERT_VERSION = into_versions!("($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)");
    FIND = select_image!("WHERE i.id = $1 AND v.number = i.latest_version AND v.deleted_us IS NULL");
    FIND_VERSION = select_image!("WHERE i.id = $1 AND v.number = $2 AND v.deleted_us IS NULL");
    FIND_BY_BLOB = select_image!("WHERE v.blob_key = $1 AND v.deleted_us IS NULL");
    ALL_VERSIONS = select_image!("WHERE i.id = $1 AND v.deleted_us IS NULL ORDER BY v.number DESC LIMIT $2");
    SET_FOCUS = "UPDATE images SET focus_x = $2, focus_y = $3 WHERE id = $1";
    CHOSEN_EXISTS = "SELECT COUNT(*) FROM images WHERE id = $1 OR (id = $2 AND org_id = $3)";
    BLOBS_KNOWN = "SELECT blob_key FROM versions WHERE blob_key IN ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, \
        $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32)";
    BLOB_EXISTS = "SELECT COUNT(*) FROM versions WHERE blob_key = $1";
    BLOB_KEYS = "SELECT blob_key, size_bytes, digest FROM versions WHERE blob_key > $1 ORDER BY blob_key LIMIT $2";
    COUNT = "SELECT COUNT(*) FROM images";
    COUNT_BLOBS = "SELECT COUNT(*) FROM versions";
    BLOBS_TO_COPY = "SELECT blob_key, size_bytes, digest, content_type, format FROM versions WHERE blob_key > $1 \
        ORDER BY blob_key LIMIT $2";
    BLOB_TO_COPY = "SELECT blob_key, size_bytes, digest, content_type, format FROM versions WHERE blob_key = $1";
}

columns! {
    pub(super) struct Row {
        id: String,
        org_id: i64,
        owner_id: String,
        namespace: String,
        name: Option<String>,
        app_key: Option<String>,
        permission: Option<String>,
        acl: String,
        state: String,
        crop_x: Option<i64>,
        crop_y: Option<i64>,
        crop_width: Option<i64>,
        crop_height: Option<i64>,
        focus_x: Option<i64>,
        focus_y: Option<i64>,
        latest_version: i64,
        created_us: i64,
        number: i64,
        blob_key: String,
        size_bytes: i64,
        digest: String,
        content_type: String,
        file_name: Option<String>,
        format: Option<String>,
        width: Option<i64>,
        height: Option<i64>,
        frames: Option<i64>,
        orientation: Option<i64>,
        look: Option<String>,
        created_by: String,
        attribution_entity_type: Option<String>,
        attribution_code: Option<String>,
        version_created_us: i64,
    }
}

impl TryFrom<Row> for Image {
    type Error = Error;

    fn try_from(row: Row) -> Result<Self, Error> {
        let label = row.id.clone();
        row.into_image().ok_or_else(|| Error::Internal { detail: format!("the row of image {label} makes no sense") })
    }
}

impl Row {
    /// None when a column holds what this version of imagewell doesn't know.
    fn into_image(self) -> Option<Image> {
        let (facts, crop, focus) = (self.facts(), self.crop(), self.focus());
        Some(Image {
            id: ImageId::parse(&self.id).ok()?,
            org: OrgId(self.org_id),
            owner: AccountId(self.owner_id.parse().ok()?),
            namespace: Namespace::from_stored(self.namespace),
            name: known(self.name, FileName::from_stored)?,
            app_key: known(self.app_key, |text| AppKey::parse(&text).ok())?,
            permission: ActionKey::parse(&self.permission?).ok()?,
            acl: Acl::from_stored(&self.acl)?,
            state: State::from_stored(&self.state)?,
            crop,
            focus,
            latest_number: u32::try_from(self.latest_version).ok()?,
            version: Version {
                number: u32::try_from(self.number).ok()?,
                blob: BlobKey::from_stored(self.blob_key),
                size_bytes: u64::try_from(self.size_bytes).ok()?,
                digest: Digest::from_hex(&self.digest)?,
                content_type: self.content_type,
                file_name: self.file_name,
                facts,
                look: self.look.and_then(|text| text.parse().ok()),
                created_by: AccountId(self.created_by.parse().ok()?),
                attribution: Attribution { entity_type: self.attribution_entity_type, code: self.attribution_code },
                created: Timestamp(self.version_created_us),
            },
            created: Timestamp(self.created_us),
        })
    }

    fn crop(&self) -> Option<Crop> {
        let number = |column: Option<i64>| u32::try_from(column?).ok();
        let (x, y) = (number(self.crop_x)?, number(self.crop_y)?);
        Some(Crop { x, y, width: number(self.crop_width)?, height: number(self.crop_height)? })
    }

    fn focus(&self) -> Option<(u16, u16)> {
        let part = |column: Option<i64>| u16::try_from(column?).ok().filter(|part| *part <= 1000);
        Some((part(self.focus_x)?, part(self.focus_y)?))
    }

    fn facts(&self) -> Option<Facts> {
        let number = |column: Option<i64>| u32::try_from(column?).ok();
        Some(Facts {
            format: Format::from_extension(self.format.as_deref()?)?,
            width: number(self.width)?,
            height: number(self.height)?,
            frames: number(self.frames)?,
            orientation: Orientation::from_exif(u16::try_from(self.orientation?).ok()?),
        })
    }
}

/// An absent column is known; one that doesn't parse is not.
fn known<T>(column: Option<String>, parse: impl FnOnce(String) -> Option<T>) -> Option<Option<T>> {
    match column {
        None => Some(None),
        Some(text) => parse(text).map(Some),
    }
}

/// Adds an image without a name, with its first version.
pub(crate) async fn insert(connection: &mut Connection, image: &Image) -> Result<(), Error> {
    let statement = query(INSERT_IMAGE_WITH_VERSION)
        .bind(image.id.to_string())
        .bind(image.org.0)
        .bind(image.owner.0.to_string())
        .bind(image.namespace.as_str())
        .bind(image.app_key.as_ref().map(AppKey::as_str))
        .bind(image.permission.as_str())
        .bind(image.state.as_str())
        .bind(i64::from(image.latest_number))
        .bind(image.created.0);
    bind_version(statement, &image.version).execute(connection).await?;
    Ok(())
}

/// Adds a version to an image that is there.
pub(super) async fn insert_version(connection: &mut Connection, image: ImageId, version: &Version) -> Result<(), Error> {
    let statement = query(INSERT_VERSION).bind(image.to_string());
    bind_version(statement, version).execute(connection).await?;
    Ok(())
}

fn bind_version<'q>(statement: Query<'q>, version: &'q Version) -> Query<'q> {
    let facts = version.facts;
    statement
        .bind(i64::from(version.number))
        .bind(version.blob.as_str())
        .bind(i64::try_from(version.size_bytes).unwrap_or(i64::MAX))
        .bind(version.digest.to_string())
        .bind(&version.content_type)
        .bind(&version.file_name)
        .bind(facts.map(|facts| facts.format.extension()))
        .bind(facts.map(|facts| i64::from(facts.width)))
        .bind(facts.map(|facts| i64::from(facts.height)))
        .bind(facts.map(|facts| i64::from(facts.frames)))
        .bind(facts.map(|facts| i64::from(facts.orientation.exif())))
        .bind(version.created_by.0.to_string())
        .bind(&version.attribution.entity_type)
        .bind(&version.attribution.code)
        .bind(version.created.0)
}

/// The image with its newest version, in whichever org it is: the caller asks `access`.
pub(crate) async fn find(database: &Database, id: ImageId) -> Result<Option<Image>, Error> {
    let row: Option<Row> = query(FIND).bind(id.to_string()).fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// The image with the version of a number, unless that is deleted.
pub(crate) async fn find_version(database: &Database, id: ImageId, number: u32) -> Result<Option<Image>, Error> {
    let row: Option<Row> = query(FIND_VERSION).bind(id.to_string()).bind(i64::from(number)).fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// The image with each of its versions that can be read, the newest first.
pub(crate) async fn versions(database: &Database, id: ImageId, count: u32) -> Result<Vec<Image>, Error> {
    let rows: Vec<Row> = query(ALL_VERSIONS).bind(id.to_string()).bind(i64::from(count)).fetch_all(database).await?;
    rows.into_iter().map(Image::try_from).collect()
}

/// Says which place should be seen, or that none matters more than others.
pub(crate) async fn set_focus(connection: &mut Connection, id: ImageId, focus: Option<(u16, u16)>) -> Result<(), Error> {
    query(SET_FOCUS)
        .bind(id.to_string())
        .bind(focus.map(|(x, _)| i64::from(x)))
        .bind(focus.map(|(_, y)| i64::from(y)))
        .execute(&mut *connection)
        .await?;
    connection.announce(Change::Image(id));
    Ok(())
}

/// The image with the version that these bytes are, unless that is deleted.
pub(crate) async fn find_by_blob(database: &Database, key: &BlobKey) -> Result<Option<Image>, Error> {
    let row: Option<Row> = query(FIND_BY_BLOB).bind(key.as_str()).fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// Whether an org has chosen this id before, in any state. Older programs stored images under the very ids that were chosen.
pub(crate) async fn chosen_exists(database: &Database, org: OrgId, chosen: ImageId) -> Result<bool, Error> {
    let query = query(CHOSEN_EXISTS).bind(chosen.chosen_by(org).to_string()).bind(chosen.to_string()).bind(org.0);
    let count: i64 = query.fetch_value(database).await?;
    Ok(count > 0)
}

/// Whether a version points at these bytes.
pub(crate) async fn blob_is_used(database: &Database, key: &BlobKey) -> Result<bool, Error> {
    count(database, BLOB_EXISTS, key.as_str()).await
}

/// Those of these bytes that a version points at.
pub(crate) async fn known_blobs(database: &Database, keys: &[BlobKey]) -> Result<HashSet<BlobKey>, Error> {
    let mut known = HashSet::new();
    for page in keys.chunks(KEYS_AT_ONCE) {
        // A short page asks for its last key more than once.
        let asked = page.iter().chain(std::iter::repeat_n(&page[page.len() - 1], KEYS_AT_ONCE - page.len()));
        let statement = asked.fold(query(BLOBS_KNOWN), |statement, key| statement.bind(key.as_str()));
        known.extend(statement.fetch_values::<String>(database).await?.into_iter().map(BlobKey::from_stored));
    }
    Ok(known)
}

/// A page of all blobs that rows point at, in key order.
pub(crate) async fn blobs_after(database: &Database, after: &str, count: u32) -> Result<Vec<(BlobKey, u64, Digest)>, Error> {
    let rows: Vec<(String, i64, String)> = query(BLOB_KEYS).bind(after).bind(i64::from(count)).fetch_all(database).await?;
    Ok(rows
        .into_iter()
        .filter_map(|(key, size, digest)| {
            Some((BlobKey::from_stored(key), u64::try_from(size).ok()?, Digest::from_hex(&digest)?))
        })
        .collect())
}

/// Bytes that are to be copied elsewhere.
#[derive(Debug)]
pub(crate) struct BlobToCopy {
    pub(crate) key: BlobKey,
    pub(crate) size_bytes: u64,
    pub(crate) digest: Digest,
    pub(crate) content_type: String,
    /// Whether they are known to be an image.
    pub(crate) inspected: bool,
}

/// A page of all blobs that rows point at, in key order, with all that a store is told of them.
pub(crate) async fn blobs_to_copy(database: &Database, after: &str, count: u32) -> Result<Vec<BlobToCopy>, Error> {
    let rows: Vec<CopyRow> = query(BLOBS_TO_COPY).bind(after).bind(i64::from(count)).fetch_all(database).await?;
    rows.into_iter().map(to_copy).collect()
}

/// The blob of this key, if a row points at it.
pub(crate) async fn blob_to_copy(database: &Database, key: &str) -> Result<Option<BlobToCopy>, Error> {
    query(BLOB_TO_COPY).bind(key).fetch_optional::<CopyRow>(database).await?.map(to_copy).transpose()
}

type CopyRow = (String, i64, String, String, Option<String>);

fn to_copy((key, size, digest, content_type, format): CopyRow) -> Result<BlobToCopy, Error> {
    let blob = || {
        let (size_bytes, digest) = (u64::try_from(size).ok()?, Digest::from_hex(&digest)?);
        Some(BlobToCopy { key: BlobKey::from_stored(key), size_bytes, digest, content_type, inspected: format.is_some() })
    };
    blob().ok_or_else(|| Error::Internal { detail: "the row of a version makes no sense".into() })
}

/// How many blobs rows point at.
pub(crate) async fn blobs_in_all(database: &Database) -> Result<i64, Error> {
    query(COUNT_BLOBS).fetch_value(database).await
}

/// How many images there are.
pub(crate) async fn total(database: &Database) -> Result<i64, Error> {
    query(COUNT).fetch_value(database).await
}

async fn count(database: &Database, sql: Sql, key: &str) -> Result<bool, Error> {
    let count: i64 = query(sql).bind(key).fetch_value(database).await?;
    Ok(count > 0)
}
