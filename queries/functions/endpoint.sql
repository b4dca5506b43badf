-- title = "Address and port as one text"
-- description = "127.0.0.1:80, [::1]:80; what has no port, as a unix socket, is its name."
-- [arguments]
-- addr = "Address; nothing gives nothing."
-- port = "Port; nothing where there are none."
CASE
  WHEN port IS NULL THEN addr
  WHEN addr LIKE '%:%' THEN '[' || addr || ']:' || port
  ELSE addr || ':' || port
END
