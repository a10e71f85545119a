//! Temporary images: adding them with a ticket, finding them by it, taking them, and what is left of those that nobody took.

use imagewell_imaging::transform::Crop;

use super::doomed::{Doomed, DoomedBytes, count_doomed};
use super::images::{Row, insert, select_image};
use super::query::{query, statements};
use super::{Connection, Database};
use crate::Error;
use crate::changes::Change;
use crate::model::{Image, ImageId, OrgId, TicketNumber, TicketNumbers, Timestamp};

statements! {
    INSERT_TICKET = "INSERT INTO tickets (number, image_id, org_id, expires_us) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (number) DO NOTHING";
    NEXT_OF_SERIES = "UPDATE ticket_series SET last_number = last_number + 1 WHERE only_row = 1 RETURNING last_number";
    FIND = select_image!("JOIN tickets t ON t.image_id = i.id WHERE t.number = $1 AND t.expires_us > $2 \
        AND v.number = i.latest_version AND v.deleted_us IS NULL");
    SET_CROP = "UPDATE images SET crop_x = $2, crop_y = $3, crop_width = $4, crop_height = $5 WHERE id = $1 \
        AND EXISTS (SELECT 1 FROM tickets WHERE image_id = $1 AND expires_us > $6)";
    CLAIM = "DELETE FROM tickets WHERE number = $1 AND org_id = $2 AND expires_us > $3 RETURNING image_id";
    KEEP = "UPDATE images SET state = 'kept' WHERE id = $1 AND state = 'temporary'";
    EXPIRED = "SELECT t.number, t.image_id, v.blob_key, v.size_bytes FROM tickets t JOIN versions v ON v.image_id = t.image_id \
        WHERE t.expires_us <= $1 ORDER BY t.expires_us LIMIT $2";
    COUNT_EXPIRED = "SELECT COUNT(*), CAST(COALESCE(SUM(v.size_bytes), 0) AS BIGINT) FROM tickets t JOIN versions v ON v.image_id = t.image_id \
        WHERE t.expires_us <= $1";
    FORGET_TICKET = "DELETE FROM tickets WHERE number = $1 AND expires_us <= $2";
    FORGET_VERSIONS = "DELETE FROM versions WHERE image_id = $1";
    FORGET_IMAGE = "DELETE FROM images WHERE id = $1";
}

/// Draws of a random number before giving up; one is enough but for an incredible coincidence.
const DRAWS: usize = 8;

/// A temporary image whose time is over.
#[derive(Debug)]
pub(crate) struct Expired {
    number: i64,
    image: String,
    bytes: DoomedBytes,
}

/// Adds a temporary image and gives it a ticket.
pub(crate) async fn add(
    connection: &mut Connection,
    image: &Image,
    numbers: TicketNumbers,
    expires: Timestamp,
) -> Result<TicketNumber, Error> {
    insert(connection, image).await?;
    for _ in 0..DRAWS {
        let number = match numbers {
            TicketNumbers::Random => TicketNumber::draw()?,
            TicketNumbers::Series => {
                let next: i64 = query(NEXT_OF_SERIES).fetch_value(&mut *connection).await?;
                TicketNumber::from_stored(next)
            }
        };
        let done = query(INSERT_TICKET)
            .bind(number.get())
            .bind(image.id.to_string())
            .bind(image.org.0)
            .bind(expires.0)
            .execute(&mut *connection)
            .await?;
        if done > 0 {
            return Ok(number);
        }
    }
    Err(Error::Internal { detail: "no ticket number is free".into() })
}

/// The image of a ticket that is still good, in whichever org it is.
pub(crate) async fn find(database: &Database, number: TicketNumber, now: Timestamp) -> Result<Option<Image>, Error> {
    let row: Option<Row> = query(FIND).bind(number.get()).bind(now.0).fetch_optional(database).await?;
    row.map(Image::try_from).transpose()
}

/// Gives a temporary image its crop, or takes it away. False when it isn't temporary any more.
pub(crate) async fn set_crop(
    connection: &mut Connection,
    id: ImageId,
    crop: Option<Crop>,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = query(SET_CROP)
        .bind(id.to_string())
        .bind(crop.map(|crop| i64::from(crop.x)))
        .bind(crop.map(|crop| i64::from(crop.y)))
        .bind(crop.map(|crop| i64::from(crop.width)))
        .bind(crop.map(|crop| i64::from(crop.height)))
        .bind(now.0)
        .execute(&mut *connection)
        .await?;
    connection.announce(Change::Image(id));
    Ok(done > 0)
}

/// Takes the image out of the dropbox for good. None when the ticket is not good any more: of many who try, one gets it.
pub(crate) async fn claim(
    connection: &mut Connection,
    number: TicketNumber,
    org: OrgId,
    now: Timestamp,
) -> Result<Option<ImageId>, Error> {
    let id: Option<String> =
        query(CLAIM).bind(number.get()).bind(org.0).bind(now.0).fetch_optional_value(&mut *connection).await?;
    let Some(id) = id else { return Ok(None) };
    query(KEEP).bind(&id).execute(&mut *connection).await?;
    let id = ImageId::parse(&id)?;
    connection.announce(Change::Image(id));
    Ok(Some(id))
}

impl Doomed for Expired {
    const NAME: &'static str = "pictures that nobody took";

    async fn page(database: &Database, now: Timestamp, count: u32) -> Result<Vec<Self>, Error> {
        let rows: Vec<(i64, String, String, i64)> = query(EXPIRED).bind(now.0).bind(i64::from(count)).fetch_all(database).await?;
        let expired = |(number, image, key, size)| Self { number, image, bytes: DoomedBytes::new(key, size) };
        Ok(rows.into_iter().map(expired).collect())
    }

    async fn count(database: &Database, now: Timestamp) -> Result<(u64, u64), Error> {
        count_doomed(database, COUNT_EXPIRED, now).await
    }

    async fn forget(&self, connection: &mut Connection, now: Timestamp) -> Result<bool, Error> {
        let done = query(FORGET_TICKET).bind(self.number).bind(now.0).execute(&mut *connection).await?;
        if done == 0 {
            return Ok(false);
        }
        for sql in [FORGET_VERSIONS, FORGET_IMAGE] {
            query(sql).bind(&self.image).execute(&mut *connection).await?;
        }
        connection.announce(Change::Image(ImageId::parse(&self.image)?));
        Ok(true)
    }

    fn bytes(&self) -> &DoomedBytes {
        &self.bytes
    }
}
