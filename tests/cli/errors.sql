-- Every error names its line, shows the place and does not stop the script.
.bail off
SELCT * FROM a;
SELECT *
  FORM a;
.opne x
.mode jsn
CREATE COLLECTION docs (dim 2) FIELDS (section STRING, size_kb INT);
CREATE COLLECTION docs (dim 2);
CREATE COLLECTION other (dim 2, bitz 4);
CREATE COLLECTION other (dim 2, metric cosin);
SELECT * FROM doc;
SELECT sectin FROM docs;
SELECT score FROM docs;
SELECT id FROM docs
  WHERE section = 'a' AND size_kb >> 3;
SELECT id FROM docs WHERE sectoin = 'a';
SELECT id FROM docs NEAREST TO [1];
SELECT id FROM docs NEAREST TO ID 7;
SELECT id FROM docs NEAREST TO [1, 0] WITH (candidate 5);
SELECT id FROM docs NEAREST TO [1, 0] WITH (recall 1.5);
SELECT id FROM docs NEAREST TO [1, 0] WITH (nprobe => 0.5);
CREATE COLLECTION other (dim 2, partition_rows 10);
CREATE COLLECTION other (dim 2, partition_rows sometimes);
INSERT INTO docs (id, vector) VALUES (1, [1, 2, 3]);
INSERT INTO docs (id, vector) VALUES (1, [0, 0]);
INSERT INTO docs (id, vector, section) VALUES (1, [1, 2], 5);
INSERT INTO docs (id, vector) VALUES ('x', [1, 2]);
INSERT INTO docs (id, vectr) VALUES (1, [1, 2]);
INSERT INTO docs (id, vector) VALUES (1, [1, 2]), (2, [0, 0]);
INSERT INTO docs (id, vector) VALUES (1, [1, 2]);
INSERT INTO docs (id, vector) VALUES (1, [1, 2]);
DELETE FROM docs;
.import missing.npy --collection docs
.import missing.parquet --create
SELECT COUNT(*) FROM docs;
SELECT 'open;
