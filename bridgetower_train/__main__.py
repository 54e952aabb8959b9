from bridgetower_train.cli import entry

entry()
