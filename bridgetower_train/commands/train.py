from bridgetower_train.config import TrainConfig
def run(config: TrainConfig) -> int:
    print(config)
    return 0
