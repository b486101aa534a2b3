-- What a TPM proved.
ALTER TABLE device ADD COLUMN endorsement TEXT NOT NULL DEFAULT 'none';
ALTER TABLE device ADD COLUMN ek TEXT;       -- SHA-256 of the endorsement key that answered its challenge
ALTER TABLE device ADD COLUMN ek_cert TEXT;  -- the certificate that the claim brought: DER in base64, verified at the proof
CREATE INDEX device_ek ON device (ek) WHERE ek IS NOT NULL;
