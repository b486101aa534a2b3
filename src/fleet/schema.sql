-- A ticket is its key: two bundles with the same key are the same ticket, whatever they call it.
CREATE TABLE ticket (
  key TEXT PRIMARY KEY,           -- SHA-256 of the public key, or `bundle:ID` where a bundle has no ticket
  id TEXT NOT NULL,
  bundle TEXT NOT NULL,
  batch TEXT,
  slots INTEGER NOT NULL,         -- boxes that it lets ask
  claims INTEGER NOT NULL,        -- boxes that did
  alarms INTEGER NOT NULL DEFAULT 0,
  CHECK (claims <= slots)
) STRICT, WITHOUT ROWID;

-- First claim binds: whoever inserts the slot has it, for ever.
CREATE TABLE binding (
  ticket TEXT NOT NULL REFERENCES ticket (key),
  slot INTEGER NOT NULL,
  device TEXT NOT NULL,
  PRIMARY KEY (ticket, slot),
  UNIQUE (ticket, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
  id TEXT PRIMARY KEY,
  key TEXT NOT NULL,              -- base64, as on the wire
  enc TEXT NOT NULL,
  state TEXT NOT NULL,
  code TEXT,
  reason TEXT NOT NULL,
  ticket TEXT NOT NULL,
  bundle TEXT NOT NULL,
  serial INTEGER NOT NULL,
  mode TEXT NOT NULL,
  batch TEXT,
  profile TEXT NOT NULL,
  ref TEXT,                       -- the bundle's row that fits
  points INTEGER NOT NULL,
  fits TEXT NOT NULL,             -- JSON, as the three below
  facts TEXT NOT NULL,
  labels TEXT NOT NULL,
  fingerprint TEXT,
  node TEXT UNIQUE,               -- the name, held by one device at a time
  former TEXT,                    -- the name that it held before another took its place
  generation INTEGER NOT NULL,
  acked INTEGER NOT NULL,
  successor INTEGER NOT NULL,     -- 1: the next box with its ticket takes its place
  agent TEXT NOT NULL,
  boots INTEGER NOT NULL,
  first_seen INTEGER NOT NULL,
  last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX device_state ON device (state, last_seen);
CREATE INDEX device_ticket ON device (ticket);
CREATE INDEX device_fingerprint ON device (fingerprint) WHERE fingerprint IS NOT NULL;

CREATE TABLE granted (
  id TEXT PRIMARY KEY,
  device TEXT NOT NULL REFERENCES device (id),
  generation INTEGER NOT NULL,
  nonce TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  issued INTEGER NOT NULL,
  envelope TEXT,                  -- sealed to the device; forgotten after a day
  UNIQUE (device, generation)
) STRICT, WITHOUT ROWID;
CREATE INDEX granted_nonce ON granted (device, nonce);

CREATE TABLE event (
  device TEXT NOT NULL,
  seq INTEGER NOT NULL,
  at INTEGER NOT NULL,            -- the device's clock
  received INTEGER NOT NULL,
  kind TEXT NOT NULL,
  code TEXT,
  detail TEXT NOT NULL,
  PRIMARY KEY (device, seq)
) STRICT, WITHOUT ROWID;

-- What nobody may use again: kind is device, ticket, bundle, signer or hardware.
CREATE TABLE barred (
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  at INTEGER NOT NULL,
  reason TEXT NOT NULL,
  PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

-- Times in which an operator lets boxes in without looking at each.
CREATE TABLE opened (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  batch TEXT,
  until INTEGER NOT NULL,
  room INTEGER NOT NULL,
  CHECK (room >= 0)
) STRICT;

-- What happened, in order; audit.jsonl is written from it.
CREATE TABLE audit (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  device TEXT,
  detail TEXT NOT NULL
) STRICT;
